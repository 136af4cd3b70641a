/** Checks of arguments. The errors name the argument, the rule and the value. */

import { ConfigError, DataError } from "./errors.js";

/** Returns `value`, an integer or a BigInt from `low` to `high`, as a BigInt; throws a `ConfigError` otherwise. */
export function whole(name, value, low, high) {
  const isWhole = typeof value === "bigint" || Number.isSafeInteger(value);
  if (!isWhole || value < low || value > high) {
    throw new ConfigError(`${name} must be a whole number from ${low} to ${high}, got ${value}`);
  }
  return BigInt(value);
}

/** Returns `value` if it is a number from `low` to `high`; throws a `ConfigError` otherwise. */
export function real(name, value, low, high) {
  if (typeof value !== "number" || !(value >= low && value <= high)) {
    throw new ConfigError(`${name} must be a number from ${low} to ${high}, got ${value}`);
  }
  return value;
}

/** Throws a `ConfigError` for an unknown option, for example a misspelt one. */
export function known(options, names) {
  const strange = Object.keys(options).find((name) => !names.includes(name));
  if (strange) throw new ConfigError(`option '${strange}' is unknown: choose from ${names.join(", ")}`);
}

/** Returns one or several texts as a list; throws a `DataError` for other values. */
export function listed(texts) {
  const list = typeof texts === "string" ? [texts] : texts;
  if (!Array.isArray(list) || list.some((text) => typeof text !== "string")) {
    throw new DataError("texts must be one string or a list of strings");
  }
  return list;
}

/** Returns codes as Float32Arrays of `size` finite numbers; throws a `DataError` for other values. */
export function codesOf(values, size) {
  const codes = Array.from(values, (code) => Float32Array.from(code));
  if (codes.some((code) => code.length !== size || !code.every(Number.isFinite))) {
    throw new DataError(`codes must be lists of ${size} finite numbers each`);
  }
  return codes;
}
