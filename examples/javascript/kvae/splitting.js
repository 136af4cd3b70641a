/** Ways to split a text into words before the words are split into pieces, exactly as serving/splitting.py has them. */

const SPACES = "\\t\\n\\v\\f\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WHITE_SPACE = new RegExp(`^[${SPACES}]$`, "u");
const IDEOGRAPH =
  /^[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]$/u;
const ASCII_SIGN = /^[!-/:-@[-`{-~]$/;

/** The code points of ranges in hexadecimal. */
const codePoints = (text) =>
  new Set(
    text.split(" ").flatMap((part) => {
      const [first, last] = part.split("-").map((end) => Number.parseInt(end, 16));
      return Array.from({ length: (last ?? first) - first + 1 }, (_, number) => first + number);
    }),
  );

/** Punctuation and format characters that the tables of the package tokenizers do not have, and punctuation they keep. */
const NEWER_PUNCTUATION = codePoints(
  "61d 9fd a76 c77 c84 1b4e-1b4f 1b7d-1b7f 2e43-2e4f 2e52-2e5d 10d6e 10ead 10ed0 10f55-10f59 " +
    "10f86-10f89 113d4-113d5 113d7-113d8 1144b-1144f 1145a-1145b 1145d 11660-1166c 116b9 1183b " +
    "11944-11946 119e2 11a3f-11a46 11a9a-11a9c 11a9e-11aa2 11b00-11b09 11be1 11c41-11c45 " +
    "11c70-11c71 11ef7-11ef8 11f43-11f4f 11fff 12ff1-12ff2 16d6d-16d6f 16e97-16e9a 16fe2 1e5ff " +
    "1e95e-1e95f",
);
const OLDER_PUNCTUATION = codePoints("166d 111c9");
const NEWER_FORMATS = codePoints("890-891 8e2 110cd 13430-1343f");

/** A function that splits a text at the spaces which `spaced` writes for and around its characters. */
const bySpacing = (spaced) => (text) => Array.from(text, spaced).join("").split(" ").filter(Boolean);

/** The words of BERT: `clean` removes control characters, `chinese` separates ideographs. */
const bert = (clean, chinese) =>
  bySpacing((symbol) => {
    const point = symbol.codePointAt(0);
    if (clean && !"\t\n\r".includes(symbol)) {
      if (/^[\ufffd\p{Cc}\p{Co}]$/u.test(symbol)) return "";
      if (/^\p{Cf}$/u.test(symbol) && !NEWER_FORMATS.has(point)) return "";
    }
    if (WHITE_SPACE.test(symbol)) return " ";
    const isSign =
      ASCII_SIGN.test(symbol) ||
      OLDER_PUNCTUATION.has(point) ||
      (/^\p{P}$/u.test(symbol) && !NEWER_PUNCTUATION.has(point));
    return isSign || (chinese && IDEOGRAPH.test(symbol)) ? ` ${symbol} ` : symbol;
  });

const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const RUNS = new RegExp(`[${WORD}]+|[^${WORD}${SPACES}]+`, "gu");
/** The pattern of GPT-2 with the white space of Unicode, of which `\s` is another set. */
const GPT2 = new RegExp(
  `'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACES}\\p{L}\\p{N}]+|[${SPACES}]+(?![^${SPACES}])|[${SPACES}]+`,
  "gu",
);
const matches = (pattern) => (text) => text.match(pattern) ?? [];
const whole = (text) => (text ? [text] : []);
const afterBlank = (units) => (text) => units(text && !text.startsWith(" ") ? ` ${text}` : text);
/** A text without the blank that `afterBlank` adds. Two blanks are of the text. */
const withoutBlank = (text) => (text.startsWith("  ") ? text : text.replace(/^ /, ""));
const same = (text) => text;

/** The ways by name: `units` splits a text. Ways of bytes have `text`, what is done to a text of joined bytes. */
export const SPLITTINGS = {
  bert: { units: bert(false, false) },
  bert_clean: { units: bert(true, false) },
  bert_chinese: { units: bert(false, true) },
  bert_clean_chinese: { units: bert(true, true) },
  runs: { units: matches(RUNS) },
  white_space: { units: bySpacing((symbol) => (WHITE_SPACE.test(symbol) ? " " : symbol)) },
  gpt2: { units: matches(GPT2), text: same },
  gpt2_blank: { units: afterBlank(matches(GPT2)), text: withoutBlank },
  whole: { units: whole, text: same },
  whole_blank: { units: afterBlank(whole), text: withoutBlank },
};

/** The names of the ways that a tokenizer may have. */
export function splittingsOf(tokenizer) {
  const names = Object.keys(SPLITTINGS);
  if (tokenizer === "wordpiece") return names.filter((name) => !SPLITTINGS[name].text);
  return tokenizer === "bpe" ? names : [];
}
