/**
 * The schema of a manifest: type and range of every field, as data. It equals the schema in serving/manifest.py.
 *
 *     { length: whole(1, LONGEST) }     a required field
 *     { "quantization?": {...} }        an optional field, here an object
 *     { [OTHERS]: TEXT }                the rule for further fields, which are refused without it
 *
 * A rule says in words what a value must be, and tests a value of any type.
 */

import { MOST_SYMBOLS, SPECIALS, TOKENIZERS, vocabularyFault } from "./alphabet.js";
import { BundleError } from "./errors.js";

export const FORMAT = "kvae-bundle";
/** Versions that these examples read. Version 2 has graphs that fewer runtimes run. */
export const READABLE_VERSIONS = [2, 3];
const ENDPOINTS = ["sampler", "encoder", "prior", "scorer", "expand", "step"];
const PLAIN_ENDPOINTS = ["sampler_plain", "step_plain"];

/** Most bytes of a manifest: room for a vocabulary of a million words of nine characters each. */
export const LARGEST_MANIFEST = 16 * 2 ** 20;
/** Most bytes of a graph: 268 million weights in float32. */
const LARGEST_GRAPH = 2 ** 30;
/** Most bytes of the map of held-out texts, which only the page of `kvae serve` reads. */
const LARGEST_MAP = 2 ** 23;
/** Most tokens of a text, END included. */
const LONGEST = 2 ** 16;

const rule = (words, holds) => ({ words, holds });
const whole = (low, high) =>
  rule(`a whole number from ${low} to ${high}`, (value) => Number.isInteger(value) && low <= value && value <= high);
const number = (low, high) =>
  rule(`a number from ${low} to ${high}`, (value) => typeof value === "number" && low <= value && value <= high);
const text = (most) =>
  rule(`a text of at most ${most} characters`, (value) => typeof value === "string" && value.length <= most);
const oneOf = (...values) =>
  rule(values.map((value) => JSON.stringify(value)).join(" or "), (value) => values.includes(value));
const matching = (pattern, words) => rule(words, (value) => typeof value === "string" && pattern.test(value));
const listOf = (each, most) =>
  rule(
    `a list of at most ${most}, each ${each.words}`,
    (value) => Array.isArray(value) && value.length <= most && value.every(each.holds),
  );
const distinct = (list) =>
  rule(
    `${list.words}, none empty and none twice`,
    (value) => list.holds(value) && value.every(Boolean) && new Set(value).size === value.length,
  );
const nestsAtMost = (value, depth) =>
  typeof value !== "object" ||
  value === null ||
  Object.keys(value).length === 0 ||
  (depth > 0 && Object.values(value).every((part) => nestsAtMost(part, depth - 1)));
const plain = (depth) =>
  rule(`JSON whose brackets nest at most ${depth} deep`, (value) => nestsAtMost(value, depth));

const TEXT = text(10_000);
const NAME = text(100);
const COUNT = whole(0, Number.MAX_SAFE_INTEGER);
const SHARE = number(0, 1);
const SIZE = number(0, 1e30);
const NUMBER = number(-1e30, 1e30);
const SHA256 = matching(/^[0-9a-f]{64}$/, "64 hexadecimal digits");
const ATTRIBUTES = distinct(listOf(TEXT, 2 ** 16));
const SETTINGS = [TEXT, NUMBER, oneOf(false, true), listOf(TEXT, 2 ** 16), listOf(NUMBER, 2 ** 16)];
const SETTING = rule("a setting: a text, a number, true, false or a list of up to 65536 texts or numbers", (value) =>
  SETTINGS.some((each) => each.holds(value)),
);
const OTHERS = Symbol("others");

const ENDPOINT = {
  file: matching(/^[A-Za-z0-9_-]{1,100}\.onnx$/, "an .onnx file in the bundle's own folder"),
  size: whole(1, LARGEST_GRAPH),
  sha256: SHA256,
};

const DESCRIPTION = {
  format: oneOf(FORMAT),
  format_version: oneOf(...READABLE_VERSIONS),
  model_id: matching(/^[0-9a-f]{16}$/, "16 hexadecimal digits"),
  mode: oneOf("lines", "windows", "fixed"),
  length: whole(1, LONGEST),
  vocabulary: vocabularyFault, // a function of alphabet.js that returns what is wrong
  latent: {
    kind: oneOf("dense", "map", "none"),
    size: whole(0, 2 ** 20),
    levels: whole(0, 64),
    prior: NAME,
    attributes: ATTRIBUTES,
  },
  defaults: { temperature: number(1e-3, 1e3), top_k: whole(0, 2 ** 32 - 1), top_p: number(1e-6, 1) },
  model: {
    length: whole(1, LONGEST),
    vocabulary_size: whole(SPECIALS.length, SPECIALS.length + MOST_SYMBOLS),
    tokenizer: oneOf(...Object.keys(TOKENIZERS)),
    latent: oneOf("dense", "map", "none"),
    latent_size: listOf(whole(1, 2 ** 20), 64),
    prior: NAME,
    attributes: ATTRIBUTES,
    [OTHERS]: SETTING,
  },
  training: { source: TEXT, [OTHERS]: plain(4) },
  versions: { [OTHERS]: NAME },
  parity: {
    rows: COUNT,
    held_out_rows: COUNT,
    symbols: COUNT,
    largest_logit_difference: SIZE,
    largest_turn_difference: SIZE,
    largest_code_difference: SIZE,
    largest_bound_difference: SIZE,
    greedy_rows_equal: COUNT,
    tolerance: SIZE,
  },
  "quantization?": {
    kind: oneOf("int8", "int8-latency"),
    texts: COUNT,
    symbols: COUNT,
    likeliest_symbols_unchanged: SHARE,
    bound: NUMBER,
    bound_in_float32: NUMBER,
    size_ratio: SIZE,
    "runtime?": oneOf("onnxruntime"),
  },
  seed_test: {
    seed: whole(0, Number.MAX_SAFE_INTEGER),
    rows: whole(0, 128),
    texts: listOf(text(LARGEST_MANIFEST), 128),
  },
  endpoints: Object.fromEntries(
    [...ENDPOINTS, ...PLAIN_ENDPOINTS.map((name) => `${name}?`)].map((name) => [name, ENDPOINT]),
  ),
  "map?": { file: oneOf("map.json"), size: whole(1, LARGEST_MAP), sha256: SHA256 },
  sha256: SHA256,
};

/** Facts that a manifest states twice, with both values, which must be equal. */
const AGREEMENTS = {
  "length and model.length": (it) => [it.length, it.model.length],
  "the size of vocabulary (its special symbols included) and model.vocabulary_size": (it) => [
    SPECIALS.length + it.vocabulary.symbols.length,
    it.model.vocabulary_size,
  ],
  "vocabulary.tokenizer and model.tokenizer": (it) => [it.vocabulary.tokenizer, it.model.tokenizer],
  "vocabulary.pattern and model.token_pattern": (it) => [it.vocabulary.pattern ?? "", it.model.token_pattern ?? ""],
  "latent.kind and model.latent": (it) => [it.latent.kind, it.model.latent],
  "latent.prior and model.prior": (it) => [it.latent.prior, it.model.prior],
  "latent.levels and the levels of model.latent_size": (it) => [
    it.latent.levels,
    it.model.latent === "none" ? 0 : it.model.latent_size.length,
  ],
  "latent.attributes and model.attributes": (it) => [it.latent.attributes, it.model.attributes],
  "seed_test.rows and the number of seed_test.texts": (it) => [it.seed_test.rows, it.seed_test.texts.length],
};

/** Throws a `BundleError` for the first field that is missing, unknown, invalid or contradicted by another. */
export function checkManifest(manifest) {
  const fault = firstFault(DESCRIPTION, manifest, "") ?? contradiction(manifest);
  if (fault) throw new BundleError(`manifest.json: ${fault}; export the bundle anew`);
}

function contradiction(manifest) {
  for (const [what, values] of Object.entries(AGREEMENTS)) {
    const [one, other] = values(manifest).map((value) => JSON.stringify(value));
    if (one !== other) return `${what} must be equal, got ${one.slice(0, 80)} and ${other.slice(0, 80)}`;
  }
  const { size, attributes } = manifest.latent;
  if (attributes.length > size) {
    return `latent.size must be at least the number of latent.attributes, ${attributes.length}, got ${size}`;
  }
}

/** A sentence about the first invalid field of a value; undefined if all are valid. */
function firstFault(description, value, field) {
  if (typeof description === "function") return description(value);
  if (description.holds) {
    return description.holds(value) ? undefined : `${field} must be ${description.words}, got ${shown(value)}`;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return `${field || "the manifest"} must be an object, got ${shown(value)}`;
  }
  const at = field ? `${field}.` : "";
  const named = new Map(Object.entries(description).map(([name, part]) => [name.replace(/\?$/, ""), part]));
  for (const name of named.keys()) {
    if (!Object.hasOwn(value, name) && !Object.hasOwn(description, `${name}?`)) return `${at}${name} is missing`;
  }
  for (const [name, part] of Object.entries(value)) {
    const found = named.get(name) ?? description[OTHERS];
    if (!found) return `${at}${shown(name)} is no field of ${field || "a manifest"}`;
    const fault = firstFault(found, part, `${at}${name.slice(0, 80)}`);
    if (fault) return fault;
  }
}

/** A short description of a value of any size, for messages. */
export function shown(value) {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
  if (Array.isArray(value)) return value.length ? `a list of ${value.length}` : "[]";
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}
