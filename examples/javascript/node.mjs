#!/usr/bin/env node
/** Command line for a bundle: `node node.mjs BUNDLE -n 5 --seed 0`. */

import { parseArgs } from "node:util";

import { inFolder } from "./kvae/folder.js";
import { ConfigError, KvaeError, Sampler } from "./kvae/index.js";

const USAGE = `usage: node node.mjs BUNDLE [COMMAND] [TEXT ...] [OPTIONS]

  sample                     new texts, the default
  encode TEXT ...            their codes, one JSON list a line
  score TEXT ...             a bound on -log p of each, in nats
  reconstruct TEXT ...       each through its code and back
  interpolate FIRST LAST     texts between the two
  verify                     does this machine sample the texts of the machine where the bundle was made?

  -n 5  --seed 0  --first-row 0  --attribute VALUE
  --greedy | --temperature 0.8  --top-k 40  --top-p 0.95
  --min-length 0  --max-length 40  --steps 7  --samples 5  --unknown replace  --json`;

const NUMBER = { type: "string" };
const OPTIONS = {
  n: { ...NUMBER, short: "n" },
  seed: NUMBER,
  "first-row": NUMBER,
  attribute: { type: "string" },
  greedy: { type: "boolean" },
  temperature: NUMBER,
  "top-k": NUMBER,
  "top-p": NUMBER,
  "min-length": NUMBER,
  "max-length": NUMBER,
  steps: NUMBER,
  samples: NUMBER,
  unknown: { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
};
const TEXTUAL = ["attribute", "greedy", "unknown", "json", "help"];

/** Each command returns [an object to print with --json, lines to print without it]. */
const COMMANDS = {
  async sample(sampler, texts, { n = 5, seed, ...options }) {
    const samples = await sampler.generate(n, seed, options);
    return [{ samples }, samples.map((sample) => sample.text)];
  },
  async encode(sampler, texts, options) {
    const codes = (await sampler.encode(texts, options)).map((code) => Array.from(code));
    return [{ codes }, codes.map((code) => JSON.stringify(code))];
  },
  async score(sampler, texts, options) {
    const scores = await sampler.score(texts, options);
    return [{ scores }, scores.map(({ text, bound }) => `${bound.toFixed(2)}\t${JSON.stringify(text)}`)];
  },
  async reconstruct(sampler, texts, options) {
    const reconstructions = await sampler.reconstruct(texts, options);
    return [{ reconstructions }, reconstructions];
  },
  async interpolate(sampler, texts, { steps, ...options }) {
    if (texts.length !== 2) throw new ConfigError(`interpolate takes two texts, got ${texts.length}`);
    const between = await sampler.interpolate(...texts, steps, options);
    return [{ texts: between }, between];
  },
  async verify(sampler) {
    await sampler.verify();
    return [{ verified: true }, ["the texts are those that the bundle wrote where it was made"]];
  },
};

/** Options with the names and types that `Sampler` takes. */
function optionsOf(values) {
  const named = ([name, value]) => [
    name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()),
    TEXTUAL.includes(name) ? value : numberOf(value),
  ];
  return Object.fromEntries(Object.entries(values).map(named));
}

/** Parses a number, a large integer as a BigInt. Other text is returned as it is, and `Sampler` refuses it. */
function numberOf(value) {
  if (/^\d{16,}$/.test(value)) return BigInt(value);
  return value.trim() === "" || Number.isNaN(Number(value)) ? value : Number(value);
}

/** Writes a BigInt (a seed above 2^53) as a string, because JSON readers would round the number. */
const withoutBigInts = (_, value) => (typeof value === "bigint" ? String(value) : value);

function parsed(words) {
  try {
    const { values, positionals } = parseArgs({ args: words, options: OPTIONS, allowPositionals: true });
    return { positionals, ...optionsOf(values) };
  } catch (error) {
    throw new ConfigError(error.message);
  }
}

async function main(words) {
  const { positionals, json, help, ...options } = parsed(words);
  const [bundle, command = "sample", ...texts] = positionals;
  if (help || !bundle) return console.log(USAGE);
  if (!Object.hasOwn(COMMANDS, command)) throw new ConfigError(`command '${command}' is unknown\n\n${USAGE}`);
  const sampler = await Sampler.load(inFolder(bundle));
  const [object, lines] = await COMMANDS[command](sampler, texts, options);
  console.log(json ? JSON.stringify(object, withoutBigInts) : lines.join("\n"));
}

main(process.argv.slice(2)).catch((error) => {
  if (!(error instanceof KvaeError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = error.exitCode;
});
