/** The errors that can be met, each with one line that says what to do; `exitCode` is what a command returns. */

export class KvaeError extends Error {
  exitCode = 1;
}

/** The bundle does not write what it wrote where it was made. */
export class CheckFailed extends KvaeError {}

/** An argument that names something impossible. */
export class ConfigError extends KvaeError {
  exitCode = 2;
}

/** A bundle that cannot be trusted or understood. */
export class BundleError extends KvaeError {
  exitCode = 3;
}

/** Text that cannot be used as it is. */
export class DataError extends KvaeError {
  exitCode = 4;
}
