/** Converts text to token ids and back with the vocabulary of a manifest, exactly as serving/alphabet.py does. */

import { merged, rankedMerges } from "./byte_pairs.js";
import { BundleError, DataError } from "./errors.js";
import { patternFault, unitsOfPattern } from "./patterns.js";
import { SPLITTINGS, splittingsOf } from "./splitting.js";

export const [PAD, START, END, UNKNOWN] = [0, 1, 2, 3];
export const SPECIALS = ["<pad>", "<start>", "<end>", "<unknown>"];
/** Largest size of a vocabulary, without the special symbols. */
export const MOST_SYMBOLS = 2 ** 20;
const REPLACEMENT = "\ufffd";
const CONTINUATION = "##";
/** End of a symbol that ends a word, if the symbols of byte pairs are not bytes. */
const WORD_END = " ";
/** Longest word that is split into wordpieces, in UTF-8 bytes, or in characters with a splitting of BERT. */
const LONGEST_WORD = 100;

const utf8 = { encoder: new TextEncoder(), decoder: new TextDecoder("utf-8", { ignoreBOM: true }) };

/** White space by Python's `str.split`; `\s` is a different set. */
const WHITE_SPACE = /[\t\n\v\f\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
const ASCII_SIGN = /^[!-/:-@[-`{-~]$/;
const PUNCTUATION = /^\p{P}$/u;
const INVISIBLE = /^[ \p{Cc}\p{Cf}]$/u;
/** Code points that are each split into a unit of its own, as in BERT. */
const IDEOGRAPH =
  /^[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]$/u;

const words = (line) => line.split(WHITE_SPACE).filter(Boolean);

/** Words separated by white space; each line break is also a word. */
const wordsOf = (text) => text.split("\n").flatMap((line, number) => (number ? ["\n", ...words(line)] : words(line)));

const textOfWords = (found) => found.join(" ").replaceAll(" \n", "\n").replaceAll("\n ", "\n");

const bytesOf = (text) => Array.from(utf8.encoder.encode(text), (byte) => String.fromCharCode(byte));

const textOfBytes = (symbols) => utf8.decoder.decode(Uint8Array.from(symbols.join(""), (byte) => byte.charCodeAt(0)));

/** Puts spaces around a character that is a unit of its own; replaces a separator by a space. */
function spaced(symbol) {
  if (symbol === "\n" || ASCII_SIGN.test(symbol) || IDEOGRAPH.test(symbol) || PUNCTUATION.test(symbol)) {
    return ` ${symbol} `;
  }
  return INVISIBLE.test(symbol) ? " " : symbol;
}

/** Units that are split into wordpieces: words, punctuation marks and ideographs. */
const unitsOfPieces = (text) => Array.from(text, spaced).join("").split(" ").filter(Boolean);

const textOfPieces = (pieces) => textOfWords(pieces.join(" ").replaceAll(` ${CONTINUATION}`, "").split(" "));

/**
 * The tokenizers. `units` splits a text and `text` joins it again. `tokens` and `unit` are the words for tokens and units
 * in messages. `replacement` is the text for UNKNOWN. `symbol` describes a valid symbol of the vocabulary, in words and as
 * a test of a non-empty string.
 */
export const TOKENIZERS = {
  char: {
    tokens: "characters",
    unit: "characters",
    units: (text) => Array.from(text),
    text: (found) => found.join(""),
    symbol: ["one character", (symbol) => Array.from(symbol).length === 1 && symbol.isWellFormed()],
  },
  byte: {
    tokens: "bytes",
    unit: "bytes",
    units: bytesOf,
    text: textOfBytes,
    symbol: ["a byte as one character up to U+00FF", (symbol) => /^[\0-\xff]$/.test(symbol)],
    replacement: "\xff",
  },
  word: {
    tokens: "words",
    unit: "words",
    units: wordsOf,
    text: textOfWords,
    symbol: ["a word without white space, or a line break", isWord],
  },
  wordpiece: {
    tokens: "wordpieces",
    unit: "words",
    units: unitsOfPieces,
    text: textOfPieces,
    symbol: ["a wordpiece without blanks, or a line break", isPiece],
  },
  pattern: { tokens: "tokens", unit: "tokens", text: (found) => found.join(""), fields: ["pattern"] },
  bpe: { tokens: "tokens", unit: "characters", fields: ["merges", "splitting"] },
};

/** The tokenizer of a vocabulary whose pattern and splitting are valid. */
function rulesOf({ tokenizer, pattern, splitting }) {
  const rules = TOKENIZERS[tokenizer];
  if (tokenizer === "pattern") {
    const units = unitsOfPattern(pattern);
    const isUnit = (symbol) => symbol.isWellFormed() && units(symbol).length === 1;
    return { ...rules, units, symbol: ["a unit of the pattern", isUnit] };
  }
  if (!splitting) return rules;
  const { units, text } = SPLITTINGS[splitting];
  if (tokenizer === "wordpiece") return { ...rules, units };
  if (!text) {
    const symbol = ["a piece of a word without blanks, save one at the end of a word", isEndedPiece];
    return { ...rules, units, text: (found) => found.join("").replace(/ $/, ""), symbol };
  }
  const symbol = ["bytes as characters up to U+00FF", (it) => /^[\0-\xff]+$/.test(it)];
  return { ...rules, units, ofBytes: true, text: (found) => text(textOfBytes(found)), symbol, replacement: "\xff" };
}

/** True for a word as `wordsOf` returns it, or a line break. */
function isWord(symbol) {
  return symbol === "\n" || (!WHITE_SPACE.test(symbol) && symbol.isWellFormed());
}

function isPiece(symbol) {
  return symbol === "\n" || (!/[ \n]/.test(symbol) && symbol.isWellFormed());
}

function isEndedPiece(symbol) {
  return !symbol.slice(0, -1).includes(WORD_END) && !symbol.includes("\n") && symbol.isWellFormed();
}

/** Message about what is wrong with a vocabulary, which may be any value; undefined if it is valid. */
export function vocabularyFault(vocabulary) {
  const names = typeof vocabulary === "object" && vocabulary !== null ? Object.keys(vocabulary) : [];
  const known = Object.hasOwn(TOKENIZERS, vocabulary?.tokenizer) ? TOKENIZERS[vocabulary.tokenizer] : {};
  const keys = ["specials", "symbols", "tokenizer", ...(known.fields ?? [])];
  const optional = vocabulary?.tokenizer === "wordpiece" ? ["fold_case", "splitting"] : ["fold_case"];
  if (!keys.every((key) => names.includes(key)) || !names.every((key) => keys.includes(key) || optional.includes(key))) {
    return `vocabulary must be an object of ${keys.join(", ")}`;
  }
  const { tokenizer, specials, symbols } = vocabulary;
  if (typeof tokenizer !== "string" || !Object.hasOwn(TOKENIZERS, tokenizer)) {
    return `vocabulary.tokenizer must be ${Object.keys(TOKENIZERS).join(" or ")}`;
  }
  if (names.includes("fold_case") && typeof vocabulary.fold_case !== "boolean") {
    return "vocabulary.fold_case must be true or false";
  }
  if (names.includes("pattern")) {
    const fault = typeof vocabulary.pattern === "string" ? patternFault(vocabulary.pattern) : "is no text";
    if (fault) return `vocabulary.pattern must be a pattern of kvae: it ${fault}`;
  }
  if (names.includes("splitting") && !splittingsOf(tokenizer).includes(vocabulary.splitting)) {
    return `vocabulary.splitting must be ${splittingsOf(tokenizer).join(" or ")}`;
  }
  if (!Array.isArray(specials) || specials.length !== SPECIALS.length || !SPECIALS.every((it, i) => it === specials[i])) {
    return `vocabulary.specials must be ${SPECIALS.join(", ")}`;
  }
  if (!Array.isArray(symbols) || symbols.length > MOST_SYMBOLS) {
    return `vocabulary.symbols must be a list of at most ${MOST_SYMBOLS} texts`;
  }
  const [words, isSymbol] = rulesOf(vocabulary).symbol;
  const strange = symbols.findIndex((symbol) => typeof symbol !== "string" || !symbol || !isSymbol(symbol));
  if (strange >= 0) return `vocabulary.symbols[${strange}] must be ${words}`;
  const places = new Map(symbols.map((symbol, place) => [symbol, place]));
  const twice = symbols.findIndex((symbol, place) => places.get(symbol) !== place);
  if (twice >= 0) return `vocabulary.symbols[${places.get(symbols[twice])}] must differ from all before it`;
  return mergesFault(vocabulary.merges ?? [], symbols);
}

/** Message about what is wrong with the merges of byte pairs, which may be any value. */
function mergesFault(merges, symbols) {
  if (!Array.isArray(merges) || merges.length > MOST_SYMBOLS) {
    return `vocabulary.merges must be a list of at most ${MOST_SYMBOLS} pairs`;
  }
  const isPlace = (it) => Number.isInteger(it) && it >= 0 && it < symbols.length;
  const known = new Set(symbols);
  const seen = new Set();
  for (const [rank, pair] of merges.entries()) {
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every(isPlace)) {
      return `vocabulary.merges[${rank}] must be two places of symbols`;
    }
    const [left, right] = pair;
    if (seen.has(`${left} ${right}`) || !known.has(symbols[left] + symbols[right])) {
      return `vocabulary.merges[${rank}] must differ from all before it, and its symbols together must be a symbol`;
    }
    seen.add(`${left} ${right}`);
  }
}

/** A text with each character as its simple lower-case mapping of Unicode, whatever stands around it. */
export const lowerCase = (text) => text.replaceAll("\u0130", "i").replaceAll("\u03a3", "\u03c3").toLowerCase();

export class Alphabet {
  /** @param vocabulary field `vocabulary` of a manifest: tokenizer, specials and symbols. */
  constructor(vocabulary) {
    const fault = vocabularyFault(vocabulary);
    if (fault) throw new BundleError(`${fault}; take the examples of the kvae that wrote it`);
    const { tokenizer, symbols, merges = [] } = vocabulary;
    this.tokenizer = tokenizer;
    this.splitting = vocabulary.splitting;
    this.foldCase = vocabulary.fold_case ?? false;
    this.rules = rulesOf(vocabulary);
    this.texts = ["", "", "", this.rules.replacement ?? REPLACEMENT, ...symbols];
    this.numbers = new Map(symbols.map((symbol, place) => [symbol, place + SPECIALS.length]));
    this.merges = rankedMerges(merges, symbols, this.numbers);
    this.longest = symbols.reduce((most, symbol) => Math.max(most, Array.from(symbol).length), 0);
  }

  /** Token ids of a text, without END: one per unit or per piece of a unit; UNKNOWN if not in the vocabulary. */
  ids(text) {
    return this.#units(text).flatMap((unit) => this.#idsOf(unit));
  }

  /** [unit, count] of what in the texts is not in the vocabulary, most frequent first. */
  unknown(texts) {
    const counts = new Map();
    for (const part of texts.flatMap((text) => this.#units(text)).flatMap((unit) => this.#unknownOf(unit))) {
      counts.set(part, (counts.get(part) ?? 0) + 1);
    }
    return [...counts].sort(([, one], [, other]) => other - one);
  }

  /** The text of a row of ids, up to its first END or PAD. */
  decode(row) {
    const stop = row.findIndex((id) => id === END || id === PAD);
    const written = stop < 0 ? row : row.slice(0, stop);
    if (written.some((id) => !Object.hasOwn(this.texts, id))) {
      throw new BundleError(`ids must be from 0 to ${this.texts.length - 1}, as the vocabulary has them; export the bundle anew`);
    }
    return this.rules.text(written.filter((id) => id !== START).map((id) => this.texts[id]));
  }

  #units(text) {
    if (!text.isWellFormed())
      throw new DataError(`text holds half a character (a lone surrogate): ${JSON.stringify(text)}`);
    return this.rules.units(this.foldCase ? lowerCase(text) : text);
  }

  #idsOf(unit) {
    if (this.tokenizer === "wordpiece") return this.#piecesOf(unit);
    if (this.tokenizer !== "bpe") return [this.numbers.get(unit) ?? UNKNOWN];
    const ids = this.#symbolsOf(unit).map((symbol) => this.numbers.get(symbol) ?? UNKNOWN);
    return merged(ids, this.merges);
  }

  /** The unit if it is unknown; of byte pairs, its characters that are. */
  #unknownOf(unit) {
    if (this.tokenizer !== "bpe") return this.#idsOf(unit).includes(UNKNOWN) ? [unit] : [];
    const isKnown = (symbol) => this.numbers.has(symbol);
    if (this.rules.ofBytes) return Array.from(unit).filter((symbol) => !bytesOf(symbol).every(isKnown));
    return Array.from(unit).filter((_, place) => !isKnown(this.#symbolsOf(unit)[place]));
  }

  /** The symbols that a unit is first split into, before any merge. */
  #symbolsOf(unit) {
    if (this.rules.ofBytes) return bytesOf(unit);
    const symbols = Array.from(unit);
    return [...symbols.slice(0, -1), symbols.at(-1) + WORD_END];
  }

  /** Wordpiece ids by greedy longest match; UNKNOWN for the whole unit if some part has no match. */
  #piecesOf(unit) {
    if (unit === "\n") return this.numbers.has(unit) ? [this.numbers.get(unit)] : [];
    const symbols = Array.from(unit);
    const length = this.splitting ? symbols.length : utf8.encoder.encode(unit).length;
    if (length > LONGEST_WORD) return [UNKNOWN];
    const ids = [];
    for (let start = 0, end; start < symbols.length; start = end) {
      const piece = (stop) => (start ? CONTINUATION : "") + symbols.slice(start, stop).join("");
      end = Math.min(symbols.length, start + this.longest);
      while (end > start && !this.numbers.has(piece(end))) end -= 1;
      if (end === start) return [UNKNOWN];
      ids.push(this.numbers.get(piece(end)));
    }
    return ids;
  }
}
