/**
 * Patterns that split a text into units, as serving/patterns.py has them: a subset of regular expressions, matched by an
 * automaton in linear time. No `RegExp` is made of a pattern.
 */

const LONGEST_PATTERN = 1000;
/** Most characters of a unit. A longer match ends where the pattern last matched. */
const LONGEST_UNIT = 1000;
const DEEPEST = 20;
/** Most characters and classes of a pattern, with repetitions written out. */
const MOST_PLACES = 1000;
/** Size of the cache of an automaton, in steps; a full cache is emptied. */
const MOST_STEPS = 200_000;
const LAST_POINT = 0x10ffff;
const CONTROLS = { n: 10, t: 9, r: 13, f: 12, v: 11 };
const HEX_DIGITS = { x: 2, u: 4 };

class PatternFault extends Error {}

/** What is wrong with a pattern, as the end of a sentence; undefined if nothing is. */
export function patternFault(pattern) {
  try {
    parsed(pattern);
  } catch (error) {
    if (error instanceof PatternFault) return error.message;
    throw error;
  }
}

/** A pattern as a tree of `{ kind, ranges | parts, low, high, lazy }`; throws a `PatternFault`. */
function parsed(pattern) {
  const symbols = Array.from(pattern);
  if (symbols.length > LONGEST_PATTERN) {
    throw new PatternFault(`has ${symbols.length} characters, at most ${LONGEST_PATTERN} may be`);
  }
  if (!symbols.length) throw new PatternFault("is empty; write a regular expression");
  const [node, end] = parseEither(symbols, 0, 0);
  if (end < symbols.length) throw new PatternFault("has a ) without its (; write \\) for the character");
  if (isEmpty(node)) throw new PatternFault("matches the empty text; use + in place of *");
  if (places(node) > MOST_PLACES) {
    throw new PatternFault(`has more than ${MOST_PLACES} characters and classes with repetitions written out`);
  }
  return node;
}

/** Whether a node can match the empty text. */
function isEmpty({ kind, parts, low }) {
  if (kind === "set") return false;
  if (kind === "repeat") return low === 0;
  return kind === "either" ? parts.some(isEmpty) : parts.every(isEmpty);
}

/** The number of characters and classes of a node, with repetitions written out. */
function places({ kind, parts, low, high }) {
  if (kind === "set") return 1;
  const times = kind === "repeat" ? Math.max(high === Infinity ? low + 1 : high, 1) : 1;
  return times * parts.reduce((sum, part) => sum + places(part), 0);
}

const set = (ranges) => ({ kind: "set", ranges });
const complement = (ranges) =>
  [0, ...ranges.map(([, last]) => last + 1)]
    .map((first, number) => [first, number < ranges.length ? ranges[number][0] - 1 : LAST_POINT])
    .filter(([first, last]) => first <= last);

function parseEither(symbols, start, depth) {
  if (depth > DEEPEST) throw new PatternFault(`has more than ${DEEPEST} groups within one another`);
  const branches = [];
  let parts = [];
  for (let place = start; ; ) {
    const symbol = symbols[place];
    if (symbol === undefined || symbol === "|" || symbol === ")") {
      if (!parts.length) throw new PatternFault("has an empty alternative or group; put ? behind the group");
      branches.push({ kind: "sequence", parts });
      if (symbol !== "|") return [{ kind: "either", parts: branches }, place];
      parts = [];
      place += 1;
      continue;
    }
    const [atom, behind] = parseAtom(symbols, place, depth);
    const [node, end] = parseQuantifier(symbols, behind, atom);
    parts.push(node);
    place = end;
  }
}

function parseAtom(symbols, place, depth) {
  const symbol = symbols[place];
  if (symbol === "(") {
    const opening = symbols.slice(place, place + 3).join("");
    if (opening.startsWith("(?") && opening !== "(?:") {
      throw new PatternFault(`has ${opening}, but groups are (...) and (?:...)`);
    }
    const [node, end] = parseEither(symbols, place + (opening === "(?:" ? 3 : 1), depth + 1);
    if (end === symbols.length) throw new PatternFault("has a ( without its ); write \\( for the character");
    return [node, end + 1];
  }
  if (symbol === "[") return parseClass(symbols, place + 1);
  if (symbol === ".") return [set(complement([[10, 10]])), place + 1];
  if ("^$".includes(symbol)) throw new PatternFault(`has the anchor ${symbol}, but a unit may be anywhere in a text`);
  if ("*+?{".includes(symbol)) throw new PatternFault(`has ${symbol} with nothing to repeat; write \\${symbol} for it`);
  if ("}]".includes(symbol)) throw new PatternFault(`has ${symbol} without its opening one; write \\${symbol} for it`);
  const [point, end] = parseCharacter(symbols, place);
  return [set([[point, point]]), end];
}

function parseCharacter(symbols, place) {
  const symbol = symbols[place];
  if (symbol !== "\\") {
    if (!symbol.isWellFormed()) throw new PatternFault("has half a character (a lone surrogate)");
    return [symbol.codePointAt(0), place + 1];
  }
  const escaped = symbols[place + 1];
  if (escaped === undefined) throw new PatternFault("ends with a \\; write \\\\ for the character");
  if (Object.hasOwn(HEX_DIGITS, escaped)) {
    const end = place + 2 + HEX_DIGITS[escaped];
    const digits = symbols.slice(place + 2, end).join("");
    if (!/^[0-9A-Fa-f]+$/.test(digits) || digits.length < HEX_DIGITS[escaped]) {
      throw new PatternFault(`has \\${escaped} without ${HEX_DIGITS[escaped]} hexadecimal digits`);
    }
    const point = Number.parseInt(digits, 16);
    if (point >= 0xd800 && point <= 0xdfff) throw new PatternFault(`has \\u${digits}, half a character`);
    return [point, end];
  }
  if (Object.hasOwn(CONTROLS, escaped)) return [CONTROLS[escaped], place + 2];
  if (!/^[ -/:-@[-`{-~]$/.test(escaped)) throw new PatternFault(`has \\${escaped}, which is no escape of a character`);
  return [escaped.codePointAt(0), place + 2];
}

function parseClass(symbols, opening) {
  const negated = symbols[opening] === "^";
  const start = opening + negated;
  const ranges = [];
  let place = start;
  while (symbols[place] !== "]" || place === start) {
    const symbol = symbols[place];
    if (symbol === undefined) throw new PatternFault("has a [ without its ]; write \\[ for the character");
    if (symbol === "]") throw new PatternFault("has an empty class; write \\] for the character");
    if (symbol === "-" && place > start && symbols[place + 1] !== "]") {
      throw new PatternFault("has a - in the middle of a class; write \\- for the character");
    }
    const [first, behind] = parseCharacter(symbols, place);
    const isRange = symbols[behind] === "-" && symbols[behind + 1] !== "]" && symbols[behind + 1] !== undefined;
    const [last, end] = isRange ? parseCharacter(symbols, behind + 1) : [first, behind];
    if (last < first) throw new PatternFault("has a range whose end is first");
    ranges.push([first, last]);
    place = end;
  }
  const found = merged(ranges);
  return [set(negated ? complement(found) : found), place + 1];
}

/** Ranges in order, those that touch made one. */
function merged(ranges) {
  const result = [];
  for (const [first, last] of ranges.sort(([one], [other]) => one - other)) {
    const before = result.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else result.push([first, last]);
  }
  return result;
}

function parseQuantifier(symbols, start, node) {
  const ahead = symbols.slice(start, start + 11).join("");
  const found = /^(?:[*+?]|\{([0-9]{1,4})(?:(,)([0-9]{1,4})?)?\})/.exec(ahead);
  if (!found) {
    if (ahead.startsWith("{")) throw new PatternFault("has a { that is no {m}, {m,} or {m,n}; write \\{ for the character");
    return [node, start];
  }
  const [quantifier, least, comma, most] = found;
  const low = least === undefined ? Number(quantifier === "+") : Number(least);
  const open = least === undefined ? quantifier !== "?" : comma && most === undefined;
  const high = open ? Infinity : Number(most ?? least ?? 1);
  if (high < low || high === 0) throw new PatternFault(`has ${quantifier}, which repeats nothing`);
  if (isEmpty(node)) throw new PatternFault(`repeats by ${quantifier} what can match the empty text`);
  let place = start + quantifier.length;
  const lazy = symbols[place] === "?";
  if (lazy) place += 1;
  if (["*", "+", "?", "{"].includes(symbols[place])) throw new PatternFault("has a quantifier behind a quantifier");
  return [{ kind: "repeat", parts: [node], low, high, lazy }, place];
}

/**
 * The automaton of a pattern. `targets[p]` is null for the end of the pattern, `{ ranges, next }` for a character, and the
 * list of the next places, preferred ones first, for a fork. A state is `{ places, accepts, next }`, `next` a map from a
 * character to the next state.
 */
class Automaton {
  #targets = [null];
  #states = new Map();
  #steps = 0;

  constructor(pattern) {
    this.start = this.#state([this.#compiled(parsed(pattern), 0)]);
  }

  /** The place where a node begins whose match continues at `following`. */
  #compiled(node, following) {
    if (node.kind === "set") return this.#added({ ranges: node.ranges, next: following });
    if (node.kind === "sequence") return node.parts.reduceRight((next, part) => this.#compiled(part, next), following);
    if (node.kind === "either") return this.#added(node.parts.map((part) => this.#compiled(part, following)));
    const [part] = node.parts;
    let place = following;
    if (node.high === Infinity) {
      const fork = [following];
      place = this.#added(fork);
      fork.splice(node.lazy ? 1 : 0, 0, this.#compiled(part, place));
    } else {
      for (let times = node.low; times < node.high; times += 1) {
        const begin = this.#compiled(part, place);
        place = this.#added(node.lazy ? [following, begin] : [begin, following]);
      }
    }
    for (let times = 0; times < node.low; times += 1) place = this.#compiled(part, place);
    return place;
  }

  #added(target) {
    return this.#targets.push(target) - 1;
  }

  /** The state that looks for some places; forks are followed in order, up to the end of the pattern. */
  #state(begins) {
    const waiting = begins.toReversed();
    const seen = new Set();
    const found = [];
    let accepts = false;
    while (waiting.length && !accepts) {
      const place = waiting.pop();
      if (seen.has(place)) continue;
      seen.add(place);
      const target = this.#targets[place];
      if (target === null) accepts = true;
      else if (Array.isArray(target)) waiting.push(...target.toReversed());
      else found.push(place);
    }
    const key = `${found.join()}${accepts}`;
    if (!this.#states.has(key)) this.#states.set(key, { places: found, accepts, next: new Map() });
    return this.#states.get(key);
  }

  /** The state after one more character. */
  after(state, symbol) {
    const known = state.next.get(symbol);
    if (known) return known;
    if (this.#steps >= MOST_STEPS) {
      for (const each of this.#states.values()) each.next.clear();
      this.#states.clear();
      this.#steps = 0;
    }
    const point = symbol.codePointAt(0);
    const begins = state.places
      .map((place) => this.#targets[place])
      .filter(({ ranges }) => ranges.some(([first, last]) => first <= point && point <= last))
      .map(({ next }) => next);
    this.#steps += 1;
    const following = this.#state(begins);
    state.next.set(symbol, following);
    return following;
  }
}

/** A function that splits a text into the successive matches of a pattern; what no match covers is a unit of its own. */
export function unitsOfPattern(pattern) {
  const automaton = new Automaton(pattern);
  return (text) => {
    const symbols = Array.from(text);
    const units = [];
    for (let start = 0, end; start < symbols.length; start = end) {
      let state = automaton.start;
      end = start + 1;
      const most = Math.min(symbols.length, start + LONGEST_UNIT);
      for (let place = start; place < most && state.places.length; place += 1) {
        state = automaton.after(state, symbols[place]);
        if (state.accepts) end = place + 1;
      }
      units.push(symbols.slice(start, end).join(""));
    }
    return units;
  };
}
