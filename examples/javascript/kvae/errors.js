/** The errors of this library. Each message is one line that says what to do. A command exits with `exitCode`. */

export class KvaeError extends Error {
  exitCode = 1;
}

/** The bundle gives other texts here than on the machine where it was exported. */
export class CheckFailed extends KvaeError {}

/** An argument with an invalid value. */
export class ConfigError extends KvaeError {
  exitCode = 2;
}

/** A bundle that is damaged, changed or of an unknown format. */
export class BundleError extends KvaeError {
  exitCode = 3;
}

/** Input data that the model cannot use. */
export class DataError extends KvaeError {
  exitCode = 4;
}
