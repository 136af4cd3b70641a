/** Sampler of a bundle, with the same graphs and random numbers as the Python `Sampler`. */

import * as ort from "onnxruntime-web";

import { Alphabet, END, PAD } from "./alphabet.js";
import { atUrl, readGraph, readManifest } from "./bundle.js";
import { codesOf, known, listed, real, whole } from "./checks.js";
import { BundleError, CheckFailed, ConfigError, DataError } from "./errors.js";
import { uniforms } from "./random_numbers.js";

ort.env.wasm.numThreads = 1;

/** Largest batch: longer calls run in several batches, which bounds their memory. */
const CHUNK = 128;
const LARGEST = { seed: 2n ** 63n - 1n, row: 2n ** 32n - 1n };
const HOW_TO_CHOOSE = ["greedy", "temperature", "topK", "topP", "minLength", "maxLength"];

export class Sampler {
  #read;
  #plain;
  #sessions = new Map();

  constructor(read, manifest, plain = false) {
    this.#read = read;
    this.#plain = plain;
    this.manifest = manifest;
    this.alphabet = new Alphabet(manifest.vocabulary);
    this.latentSize = manifest.latent.size;
    this.attributes = manifest.latent.attributes;
  }

  /**
   * Opens the bundle at a URL, or with a reader, an `async (name, most) => Uint8Array`.
   *
   * With `plain: true` the graph without random numbers samples, and this file draws them; the texts are the same.
   */
  static async load(source, { plain = false, ...others } = {}) {
    known(others, ["plain"]);
    const read = typeof source === "function" ? source : atUrl(source);
    const sampler = new Sampler(read, await readManifest(read), plain);
    await sampler.#session(plain ? "sampler_plain" : "sampler");
    return sampler;
  }

  /**
   * Samples `n` texts. Row i of a seed is the same text for every `n`, and the same as in Python.
   *
   * Options: `greedy: true` or `temperature: 0.8` (default: the bundle's own), `topK`, `topP`, `minLength`, `maxLength`, `firstRow`, and
   * `attribute: "positive"` for a model that was trained with labels.
   */
  async sample(n, seed, options) {
    return (await this.generate(n, seed, options)).map((sample) => sample.text);
  }

  /** As `sample`, but each text with its seed, row, log-probability (nats) and whether it is finished. */
  async generate(n, seed = randomSeed(), { firstRow = 0, attribute, ...options } = {}) {
    this.#checkAttribute(attribute);
    const choices = choicesOf(this.manifest, options);
    return inChunks(checkedPlaces(n, seed, firstRow), async (places) => {
      const codes = this.attributes.length ? await this.#drawn(places, attribute) : [];
      return this.#sampled(codes, places, choices);
    });
  }

  /** Latent codes sampled from the prior, a Float32Array for each of the rows from `firstRow` of a seed. */
  async drawCodes(n, seed, { firstRow = 0, attribute } = {}) {
    this.#checkAttribute(attribute);
    return inChunks(checkedPlaces(n, seed, firstRow), (places) => this.#drawn(places, attribute));
  }

  /**
   * Posterior means of texts, a Float32Array each. Unknown units throw, or are replaced: `unknown: "replace"`.
   *
   * With a model that was trained with labels, the last columns are the label that it infers: one column for each value of
   * `attributes`, 1 for the inferred value and 0 for the others.
   */
  async encode(texts, { unknown = "refuse", ...others } = {}) {
    known(others, ["unknown"]);
    if (this.manifest.latent.kind === "none") {
      throw new ConfigError("this model is a language model and has no code of a text: sample from it, or score texts");
    }
    const rows = this.#tokens(listed(texts), unknown);
    return inChunks({ count: rows.length }, async ({ start, count }) => {
      const ids = Int32Array.from(rows.slice(start, start + count).flat());
      const { mean } = await this.#run("encoder", {
        tokens: new ort.Tensor("int32", ids, [count, this.manifest.length]),
      });
      return rowsOf(mean);
    });
  }

  /**
   * An upper bound on -log p(text) of each text, in nats, averaged over `samples` latent codes, as `Sampler.score` in Python.
   *
   * Returns `{ text, bound, reconstruction, kl, bitsPerCharacter, nats }` for each text; `nats` has one number for each token.
   * Unknown units count as the unknown symbol, or throw: `unknown: "refuse"`. `attribute` is the label of all texts; without
   * it, a model that was trained with labels infers the label of each text, and `kl` includes the cost.
   */
  async score(texts, { samples = 1, seed = 0, attribute, unknown = "replace", ...others } = {}) {
    known(others, ["samples", "seed", "attribute", "unknown"]);
    this.#checkAttribute(attribute);
    const count = Number(whole("samples", samples, 1, LARGEST.row));
    whole("seed", seed, 0, LARGEST.seed);
    const list = listed(texts);
    const rows = this.#tokens(list, unknown).map((ids) => ({ ids, length: ids.filter((id) => id !== PAD).length }));
    const scores = new Array(list.length);
    // A batch takes as many steps as its longest text has tokens, so texts of similar length are scored together.
    const order = [...rows.keys()].sort((one, other) => rows[other].length - rows[one].length);
    await inChunks({ count: order.length }, async ({ start, count: size }) => {
      const places = order.slice(start, start + size);
      const sums = await this.#bounds(
        places.map((place) => rows[place]),
        { samples: count, seed, attribute },
      );
      places.forEach((place, number) => (scores[place] = this.#scoreOf(list[place], sums[number])));
      return [];
    });
    return scores;
  }

  /** The texts of latent codes: greedy, or sampled with `seed` if `temperature`, `topK` or `topP` is given. */
  async decode(codes, seed = 0, options = {}) {
    const list = codesOf(codes, this.latentSize);
    const greedy = !["temperature", "topK", "topP"].some((name) => name in options);
    const choices = choicesOf(this.manifest, { greedy, ...options });
    const sampled = (places) => this.#sampled(list.slice(places.start, places.start + places.count), places, choices);
    return (await inChunks(checkedPlaces(list.length, seed, 0), sampled)).map((sample) => sample.text);
  }

  /** Encodes each text and decodes its latent code greedily. */
  async reconstruct(texts, options) {
    return this.decode(await this.encode(texts, options));
  }

  /** Greedy texts of `steps` evenly spaced codes from the code of `first` to that of `last`, both included. */
  async interpolate(first, last, steps = 7, options) {
    const paces = Number(whole("steps", steps, 2, 100_000)) - 1;
    const [start, stop] = await this.encode([first, last], options);
    return this.decode(Array.from({ length: paces + 1 }, (_, pace) => between(start, stop, pace / paces)));
  }

  /** Throws `CheckFailed` unless the texts of the manifest's seed test are the same here. */
  async verify() {
    const { seed, rows, texts } = this.manifest.seed_test;
    const written = await this.sample(rows, seed, { temperature: 1, minLength: 0 });
    const place = written.findIndex((text, row) => text !== texts[row]);
    if (place >= 0) {
      const [here, there] = [written[place], texts[place]].map((text) => JSON.stringify(text));
      throw new CheckFailed(`row ${place} of seed ${seed} is ${here} here and was ${there} where the bundle was made`);
    }
  }

  /** `{ kl, nats }` of rows of ids, means over the codes of rows 0, 1, ... of a seed, in double precision. */
  async #bounds(rows, { samples, seed, attribute }) {
    const label = attribute === undefined ? -1 : this.attributes.indexOf(attribute);
    const inputs = {
      tokens: new ort.Tensor("int32", Int32Array.from(rows.flatMap(({ ids }) => ids)), [rows.length, this.manifest.length]),
      seed: int64(rows.map(() => BigInt(seed))),
      ...(this.attributes.length
        ? { attribute: new ort.Tensor("int32", new Int32Array(rows.length).fill(label), [rows.length]) }
        : {}),
    };
    const sums = rows.map(({ length }) => ({ kl: 0, nats: new Array(length).fill(0) }));
    for (let row = 0; row < samples; row++) {
      const found = await this.#run("scorer", { ...inputs, row: int64(rows.map(() => BigInt(row))) });
      const nats = rowsOf(found.nats);
      sums.forEach((sum, place) => {
        sum.kl += found.kl.data[place] / samples;
        sum.nats = sum.nats.map((number, position) => number + nats[place][position] / samples);
      });
    }
    return sums;
  }

  /** The score of a text. The end mark counts as a character, and a character is a code point. */
  #scoreOf(text, { kl, nats }) {
    const reconstruction = nats.reduce((sum, number) => sum + number, 0);
    const characters = Math.max([...text].length + (this.manifest.mode === "lines" ? 1 : 0), 1);
    const bound = reconstruction + kl;
    return { text, bound, reconstruction, kl, bitsPerCharacter: bound / (characters * Math.LN2), nats };
  }

  async #drawn(places, attribute) {
    const codes = rowsOf((await this.#run("prior", placeInputs(places))).z);
    return attribute === undefined ? codes : this.#labelled(codes, attribute);
  }

  /** Samples texts of codes; for an empty list the graph draws the codes itself. */
  async #sampled(codes, places, choices) {
    const found = this.#plain
      ? await this.#samplePlain(codes.length ? codes : await this.#drawn(places), places, choices)
      : await this.#run("sampler", { z: matrix(codes, this.latentSize), ...placeInputs(places), ...choices });
    const complete = this.manifest.mode === "fixed" && found.ids.dims[1] === this.manifest.length;
    return rowsOf(found.ids).map((row, place) => {
      const ids = Array.from(row, Number);
      return {
        text: this.alphabet.decode(ids),
        seed: places.seed,
        row: places.firstRow + places.start + place,
        logProbability: found.log_probability.data[place],
        finished: complete || ids.includes(END),
      };
    });
  }

  /** The outputs of the sampler graph, from the graph without random numbers. */
  async #samplePlain(codes, { seed, firstRow, start }, { max_length, ...choices }) {
    const length = Number(max_length.data[0]);
    const drawn = codes.map((_, place) => uniforms(seed, firstRow + start + place, length));
    const inputs = { z: matrix(codes, this.latentSize), uniform: matrix(drawn, length) };
    const { ids, log_probability } = await this.#run("sampler_plain", { ...inputs, ...choices });
    const sums = rowsOf(log_probability).map((row) => row.reduce((sum, nats) => sum + nats, 0));
    return { ids, log_probability: { data: Float32Array.from(sums) } };
  }

  #checkAttribute(attribute) {
    if (attribute === undefined || this.attributes.includes(attribute)) return;
    const choice = this.attributes.length
      ? `choose one of ${this.attributes.join(", ")}`
      : "the model was trained without labels";
    throw new ConfigError(`attribute '${attribute}' is unknown: ${choice}`);
  }

  /** Codes with their last dimensions, one per label, set to the one-hot vector of `attribute`. */
  #labelled(codes, attribute) {
    const first = this.latentSize - this.attributes.length;
    const value = this.attributes.indexOf(attribute);
    return codes.map((code) => code.map((number, place) => (place < first ? number : Number(place - first === value))));
  }

  /** Rows of token ids. In mode "lines", END and PAD follow the text. Throws a `DataError` instead of truncating. */
  #tokens(texts, unknown) {
    if (!["refuse", "replace"].includes(unknown))
      throw new ConfigError(`unknown must be 'refuse' or 'replace', got '${unknown}'`);
    const { length, mode } = this.manifest;
    const { tokens, unit } = this.alphabet.rules;
    const strange = unknown === "refuse" ? this.alphabet.unknown(texts).slice(0, 5) : [];
    if (strange.length) {
      const shown = strange.map(([symbol, count]) => `${JSON.stringify(symbol)} ${count}`).join(", ");
      throw new DataError(
        `texts hold ${unit} the model never saw: ${shown}; remove them, or have them replaced: unknown: "replace"`,
      );
    }
    return texts.map((text, row) => {
      const ids = this.alphabet.ids(text);
      if (mode === "lines" ? ids.length >= length : ids.length !== length) {
        const rule =
          mode === "lines" ? `the model takes at most ${length - 1}` : `this model reads windows of exactly ${length}`;
        throw new DataError(`text ${row} has ${ids.length} ${tokens}, ${rule}`);
      }
      return mode === "lines" ? [...ids, END, ...Array(length - 1 - ids.length).fill(PAD)] : ids;
    });
  }

  /** The session of an endpoint's graph, verified and started on first use. */
  #session(endpoint) {
    if (!this.#sessions.has(endpoint)) {
      const starting = this.#started(endpoint);
      starting.catch(() => this.#sessions.delete(endpoint));
      this.#sessions.set(endpoint, starting);
    }
    return this.#sessions.get(endpoint);
  }

  async #started(endpoint) {
    const content = await readGraph(this.#read, this.manifest, endpoint);
    return ort.InferenceSession.create(content, { executionProviders: ["wasm"], logSeverityLevel: 4 }).catch(
      (error) => {
        throw new BundleError(
          `the ${endpoint} cannot be started by onnxruntime-web ${ort.env.versions.web} (${firstLine(error)})`,
        );
      },
    );
  }

  async #run(endpoint, inputs) {
    const session = await this.#session(endpoint);
    return session.run(inputs).catch((error) => {
      throw new BundleError(`the bundle's ${endpoint} did not run (${firstLine(error)})`);
    });
  }
}

/** Sampling options as inputs of the sampler graph: temperature 0 is greedy, top_k 0 and top_p 1 are off. */
function choicesOf({ length, defaults }, options) {
  known(options, HOW_TO_CHOOSE);
  const { greedy = false, temperature, topK = 0, topP = 1, minLength = 1, maxLength = length } = options;
  if (greedy && (temperature !== undefined || topK || topP !== 1)) {
    throw new ConfigError("greedy takes the most probable token: give it alone, without temperature, topK or topP");
  }
  const longest = whole("maxLength", maxLength, 1, length);
  return {
    temperature: float32(greedy ? 0 : real("temperature", temperature ?? defaults.temperature, 1e-3, 1e3)),
    top_k: int64(whole("topK", topK, 0, LARGEST.row)),
    top_p: float32(real("topP", topP, 1e-6, 1)),
    min_length: int64(whole("minLength", minLength, 0, longest)),
    max_length: int64(longest),
  };
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** Checks the arguments and returns the rows to sample: `count` rows of a seed, from `firstRow + start`. */
function checkedPlaces(n, seed, firstRow) {
  const count = whole("n", n, 0, LARGEST.row);
  whole("seed", seed, 0, LARGEST.seed);
  return {
    seed,
    firstRow: Number(whole("firstRow", firstRow, 0, LARGEST.row - count)),
    start: 0,
    count: Number(count),
  };
}

function placeInputs({ seed, firstRow, start, count }) {
  const rows = Array.from({ length: count }, (_, place) => BigInt(firstRow + start + place));
  return { seed: int64(rows.map(() => BigInt(seed))), row: int64(rows) };
}

/** Runs `task` on at most `CHUNK` rows at a time and concatenates the results. */
async function inChunks(places, task) {
  const results = [];
  for (let start = 0; start < places.count; start += CHUNK) {
    results.push(...(await task({ ...places, start, count: Math.min(CHUNK, places.count - start) })));
  }
  return results;
}

/** Linear interpolation between two codes at fraction `share`, in single precision as numpy computes it. */
export function between(start, stop, share) {
  const along = Math.fround(share);
  return start.map((number, place) => number + Math.fround(along * Math.fround(stop[place] - number)));
}

/** An int64 tensor: a vector from a list of BigInts, a scalar from one BigInt. */
const int64 = (value) =>
  typeof value === "bigint"
    ? new ort.Tensor("int64", BigInt64Array.of(value), [])
    : new ort.Tensor("int64", BigInt64Array.from(value), [value.length]);

/** A float32 tensor (n, width) from a list of rows. */
const matrix = (rows, width) =>
  new ort.Tensor("float32", Float32Array.from(rows.flatMap((row) => Array.from(row))), [rows.length, width]);

const float32 = (value) => new ort.Tensor("float32", Float32Array.of(value), []);

/** The rows of a tensor (n, width) as a list. */
function rowsOf({ data, dims: [n, width] }) {
  return Array.from({ length: n }, (_, row) => data.slice(row * width, (row + 1) * width));
}

const firstLine = (error) =>
  String(error?.message ?? error)
    .trim()
    .split("\n")[0]
    .slice(0, 160);
