/** Arguments that are what they must be, or an error that names the argument, the rule and the value. */

import { ConfigError, DataError } from "./errors.js";

/** `value`, a whole number or a BigInt from `low` to `high`, as a BigInt. */
export function whole(name, value, low, high) {
  const isWhole = typeof value === "bigint" || Number.isSafeInteger(value);
  if (!isWhole || value < low || value > high) {
    throw new ConfigError(`${name} must be a whole number from ${low} to ${high}, got ${value}`);
  }
  return BigInt(value);
}

/** `value`, a number from `low` to `high`. */
export function real(name, value, low, high) {
  if (typeof value !== "number" || !(value >= low && value <= high)) {
    throw new ConfigError(`${name} must be a number from ${low} to ${high}, got ${value}`);
  }
  return value;
}

/** Refuses an option that nobody reads: it is misspelt. */
export function known(options, names) {
  const strange = Object.keys(options).find((name) => !names.includes(name));
  if (strange) throw new ConfigError(`option '${strange}' is unknown: choose from ${names.join(", ")}`);
}

/** One text or several as a list. */
export function listed(texts) {
  const list = typeof texts === "string" ? [texts] : texts;
  if (!Array.isArray(list) || list.some((text) => typeof text !== "string")) {
    throw new DataError("texts must be one string or a list of strings");
  }
  return list;
}

/** Codes as lists of `size` finite numbers each. */
export function codesOf(values, size) {
  const codes = Array.from(values, (code) => Float32Array.from(code));
  if (codes.some((code) => code.length !== size || !code.every(Number.isFinite))) {
    throw new DataError(`codes must be lists of ${size} finite numbers each`);
  }
  return codes;
}
