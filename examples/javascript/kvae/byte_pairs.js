/** Byte-pair encoding: the pair of pieces with the smallest rank is merged, again and again, as serving/byte_pairs.py does. */

/** A heap of [rank, place, result], the smallest rank first, then the smallest place. */
class Heap {
  #items = [];

  get size() {
    return this.#items.length;
  }

  push(item) {
    const items = this.#items;
    let place = items.push(item) - 1;
    for (let above; place > 0 && before(item, items[(above = (place - 1) >> 1)]); place = above) {
      items[place] = items[above];
    }
    items[place] = item;
  }

  pop() {
    const items = this.#items;
    const [first] = items;
    const item = items.pop();
    if (!items.length) return first;
    let place = 0;
    for (;;) {
      let below = 2 * place + 1;
      if (below + 1 < items.length && before(items[below + 1], items[below])) below += 1;
      if (below >= items.length || !before(items[below], item)) break;
      items[place] = items[below];
      place = below;
    }
    items[place] = item;
    return first;
  }
}

const before = ([rank, place], [otherRank, otherPlace]) => rank < otherRank || (rank === otherRank && place < otherPlace);

/** The ranks and results of merges by pair of ids; `symbols` are those of the vocabulary, `numbers` their ids. */
export function rankedMerges(merges, symbols, numbers) {
  const found = new Map();
  merges.forEach(([left, right], rank) => {
    const key = `${numbers.get(symbols[left])} ${numbers.get(symbols[right])}`;
    found.set(key, [rank, numbers.get(symbols[left] + symbols[right])]);
  });
  return found;
}

/** The ids of a unit after all merges. */
export function merged(given, merges) {
  const ids = [...given];
  const left = ids.map((_, place) => place - 1);
  const right = ids.map((_, place) => place + 1);
  const gone = ids.map(() => false);
  const waiting = new Heap();
  const resultAt = (place) => merges.get(`${ids[place]} ${ids[right[place]]}`);
  const wait = (place) => {
    const found = place >= 0 && right[place] < ids.length && resultAt(place);
    if (found) waiting.push([found[0], place, found[1]]);
  };
  ids.forEach((_, place) => wait(place));
  while (waiting.size) {
    const [, place, result] = waiting.pop();
    const next = right[place];
    if (gone[place] || next >= ids.length || resultAt(place)?.[1] !== result) continue;
    ids[place] = result;
    gone[next] = true;
    right[place] = right[next];
    if (right[place] < ids.length) left[right[place]] = place;
    wait(left[place]);
    wait(place);
  }
  return ids.filter((_, place) => !gone[place]);
}
