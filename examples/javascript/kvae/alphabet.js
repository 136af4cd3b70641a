/** Text to symbol ids and back, by the vocabulary of a manifest: what serving/alphabet.py does, symbol for symbol. */

import { BundleError, DataError } from "./errors.js";

export const [PAD, START, END, UNKNOWN] = [0, 1, 2, 3];
const SPECIALS = ["<pad>", "<start>", "<end>", "<unknown>"];
const REPLACEMENT = "\ufffd";
const CONTINUATION = "##";
/** UTF-8 bytes of the longest word that is looked up in wordpieces. */
const LONGEST_WORD = 100;

const utf8 = { encoder: new TextEncoder(), decoder: new TextDecoder("utf-8", { ignoreBOM: true }) };

/** What Python's `str.split` splits at; `\s` knows other characters. */
const WHITE_SPACE = /[\t\n\v\f\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
const ASCII_SIGN = /^[!-/:-@[-`{-~]$/;
const PUNCTUATION = /^\p{P}$/u;
const INVISIBLE = /^[ \p{Cc}\p{Cf}]$/u;
/** Ranges of code points that are units of their own, as in BERT. */
const IDEOGRAPH =
  /^[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]$/u;

const words = (line) => line.split(WHITE_SPACE).filter(Boolean);

/** What stands between white space; a line break is a word of its own. */
const wordsOf = (text) => text.split("\n").flatMap((line, number) => (number ? ["\n", ...words(line)] : words(line)));

const textOfWords = (found) => found.join(" ").replaceAll(" \n", "\n").replaceAll("\n ", "\n");

const bytesOf = (text) => Array.from(utf8.encoder.encode(text), (byte) => String.fromCharCode(byte));

const textOfBytes = (symbols) => utf8.decoder.decode(Uint8Array.from(symbols, (symbol) => symbol.charCodeAt(0)));

/** A character with blanks around it where it is a unit of its own, as a blank where it only separates units. */
function spaced(symbol) {
  if (symbol === "\n" || ASCII_SIGN.test(symbol) || IDEOGRAPH.test(symbol) || PUNCTUATION.test(symbol)) {
    return ` ${symbol} `;
  }
  return INVISIBLE.test(symbol) ? " " : symbol;
}

/** What wordpieces are made within: words, punctuation marks and ideographs. */
const unitsOfPieces = (text) => Array.from(text, spaced).join("").split(" ").filter(Boolean);

const textOfPieces = (pieces) => textOfWords(pieces.join(" ").replaceAll(` ${CONTINUATION}`, "").split(" "));

/** How a text is taken apart and put together; `unit` is what is known or unknown, `replacement` stands for UNKNOWN. */
const TOKENIZERS = {
  char: {
    tokens: "characters",
    unit: "characters",
    units: (text) => Array.from(text),
    text: (found) => found.join(""),
  },
  byte: { tokens: "bytes", unit: "bytes", units: bytesOf, text: textOfBytes, replacement: "\xff" },
  word: { tokens: "words", unit: "words", units: wordsOf, text: textOfWords },
  wordpiece: { tokens: "wordpieces", unit: "words", units: unitsOfPieces, text: textOfPieces },
};

export class Alphabet {
  /** @param vocabulary `vocabulary` of a manifest: tokenizer, specials and symbols. */
  constructor({ tokenizer, specials, symbols }) {
    if (!Object.hasOwn(TOKENIZERS, tokenizer) || JSON.stringify(specials) !== JSON.stringify(SPECIALS)) {
      throw new BundleError(`vocabulary: tokenizer '${tokenizer}' is unknown here; take the examples of a newer kvae`);
    }
    this.tokenizer = tokenizer;
    this.rules = TOKENIZERS[tokenizer];
    this.texts = ["", "", "", this.rules.replacement ?? REPLACEMENT, ...symbols];
    this.numbers = new Map(symbols.map((symbol, place) => [symbol, place + SPECIALS.length]));
    this.longest = symbols.reduce((most, symbol) => Math.max(most, Array.from(symbol).length), 0);
  }

  /** One id a character, byte or word, or one for each wordpiece; UNKNOWN for what is outside the alphabet. No END. */
  ids(text) {
    return this.#units(text).flatMap((unit) => this.#idsOf(unit));
  }

  /** How often each unit that the alphabet lacks occurs in the texts, the commonest first. */
  unknown(texts) {
    const counts = new Map();
    for (const unit of texts.flatMap((text) => this.#units(text))) {
      if (this.#idsOf(unit).includes(UNKNOWN)) counts.set(unit, (counts.get(unit) ?? 0) + 1);
    }
    return [...counts].sort(([, one], [, other]) => other - one);
  }

  /** A row of ids as text; it ends before its first END or PAD. */
  decode(row) {
    const stop = row.findIndex((id) => id === END || id === PAD);
    const written = stop < 0 ? row : row.slice(0, stop);
    return this.rules.text(written.filter((id) => id !== START).map((id) => this.texts[id]));
  }

  #units(text) {
    if (!text.isWellFormed())
      throw new DataError(`text holds half a character (a lone surrogate): ${JSON.stringify(text)}`);
    return this.rules.units(text);
  }

  #idsOf(unit) {
    return this.tokenizer === "wordpiece" ? this.#piecesOf(unit) : [this.numbers.get(unit) ?? UNKNOWN];
  }

  /** The longest piece that fits, again and again, and UNKNOWN for the whole unit where none does. */
  #piecesOf(unit) {
    if (unit === "\n") return this.numbers.has(unit) ? [this.numbers.get(unit)] : [];
    if (utf8.encoder.encode(unit).length > LONGEST_WORD) return [UNKNOWN];
    const symbols = Array.from(unit);
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
