"""Patterns that split a text into units: regular expressions of a subset, matched in linear time.

The subset has what all regular expressions have in common: characters, classes, groups,
alternatives and quantifiers. A match is the one that Python's `re` and a JavaScript `RegExp` with
flag `u` find. No engine sees the pattern. It is parsed here and matched by an automaton, which
reads every character of a match once (Thompson 1968; Cox 2010 for the order of alternatives). So a
pattern from a stranger cannot take exponential time. `examples/javascript/kvae/patterns.js` has
the same parser and the same automaton.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LONGEST_PATTERN = 1000
"""Largest number of characters of a pattern."""

LONGEST_UNIT = 1000
"""Largest number of characters of a unit. A longer match ends where the pattern last matched."""

DEEPEST = 20
"""Largest number of groups within one another."""

MOST_PLACES = 1000
"""Largest number of characters and classes of a pattern, with repetitions written out."""

MOST_STEPS = 200_000
"""Size of the cache of an automaton, in steps; a full cache is emptied."""

LAST_POINT = 0x10FFFF
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
HEX_DIGITS = {"x": 2, "u": 4}
REFUSED_ESCAPES = {
    "d": "is another set in each language; write [0-9]",
    "D": "is another set in each language; write [^0-9]",
    "w": "is another set in each language; write [A-Za-z0-9_], with the letters of your texts",
    "W": "is another set in each language; write [^A-Za-z0-9_], with the letters of your texts",
    "s": r"is another set in each language; write [ \t\r\n]",
    "S": r"is another set in each language; write [^ \t\r\n]",
    "b": "looks beyond the unit; leave it out",
    "B": "looks beyond the unit; leave it out",
    "p": "depends on the version of Unicode; write the characters as ranges, as in [a-zà-ÿ]",
    "P": "depends on the version of Unicode; write the characters as ranges, as in [^a-zà-ÿ]",
}
GROUPS = {
    "(?=": "looks beyond the unit; leave it out",
    "(?!": "looks beyond the unit; leave it out",
    "(?<": "is a named group or looks back; write (?:...)",
    "(?P": "is a named group; write (?:...)",
    "(?>": "is an atomic group, which JavaScript lacks; write (?:...)",
}

Ranges = tuple[tuple[int, int], ...]
"""A set of code points, as first and last ones."""


class PatternFault(ValueError):
    """What is wrong with a pattern, as the end of a sentence."""


@dataclass(frozen=True)
class Node:
    """A part of a parsed pattern."""

    kind: str
    """`set`, `sequence`, `either` (alternatives, the preferred one first) or `repeat`."""
    ranges: Ranges = ()
    parts: tuple[Node, ...] = ()
    low: int = 1
    high: int | None = 1
    """None: any number of times."""
    lazy: bool = False

    @property
    def empty(self) -> bool:
        """Whether it can match the empty text."""
        if self.kind == "set":
            return False
        if self.kind == "repeat":
            return self.low == 0
        return (any if self.kind == "either" else all)(part.empty for part in self.parts)

    @property
    def places(self) -> int:
        """The number of characters and classes, with repetitions written out."""
        if self.kind == "set":
            return 1
        times = max(self.low + 1 if self.high is None else self.high, 1)
        return times * sum(part.places for part in self.parts)


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a pattern, as the end of a sentence, or None."""
    try:
        parsed(pattern)
    except PatternFault as fault:
        return str(fault)
    return None


def parsed(pattern: str) -> Node:
    """A pattern as a tree. Raises `PatternFault` for one outside the subset."""
    if len(pattern) > LONGEST_PATTERN:
        raise PatternFault(f"has {len(pattern):,} characters, at most {LONGEST_PATTERN:,} may be")
    if not pattern:
        raise PatternFault("is empty; write a regular expression, as [0-9]+|[A-Za-z]")
    node, end = parse_either(pattern, 0, 0)
    if end < len(pattern):
        raise PatternFault(r"has a ) without its (; write \) for the character")
    if node.empty:
        raise PatternFault("matches the empty text; use + in place of *")
    if node.places > MOST_PLACES:
        raise PatternFault(
            f"has {node.places:,} characters and classes with repetitions written out, at most "
            f"{MOST_PLACES:,} may be"
        )
    return node


def parse_either(pattern: str, place: int, depth: int) -> tuple[Node, int]:
    """The alternatives from a place to the end of their group, and the place of that end."""
    if depth > DEEPEST:
        raise PatternFault(f"has more than {DEEPEST} groups within one another")
    branches: list[Node] = []
    parts: list[Node] = []
    while True:
        symbol = pattern[place : place + 1]
        if symbol in ("", "|", ")"):
            if not parts:
                raise PatternFault("has an empty alternative or group; put ? behind the group")
            branches.append(Node("sequence", parts=tuple(parts)))
            if symbol != "|":
                return Node("either", parts=tuple(branches)), place
            parts, place = [], place + 1
            continue
        node, place = parse_atom(pattern, place, depth)
        node, place = parse_quantifier(pattern, place, node)
        parts.append(node)


def parse_atom(pattern: str, place: int, depth: int) -> tuple[Node, int]:
    """The group, class or character at a place, and the place behind it."""
    symbol = pattern[place]
    if symbol == "(":
        start = place + 1
        if pattern.startswith("(?", place):
            if not pattern.startswith("(?:", place):
                opening = pattern[place : place + 3]
                reason = GROUPS.get(opening, "is a flag; write both cases, as in [Aa]")
                raise PatternFault(f"has {opening}, which {reason}")
            start = place + 3
        node, end = parse_either(pattern, start, depth + 1)
        if end == len(pattern):
            raise PatternFault(r"has a ( without its ); write \( for the character")
        return node, end + 1
    if symbol == "[":
        return parse_class(pattern, place + 1)
    if symbol == ".":
        return Node("set", complement(((10, 10),))), place + 1
    if symbol in "^$":
        raise PatternFault(
            f"has the anchor {symbol}, but a unit may be anywhere in a text; leave it out, or "
            rf"write \{symbol} for the character"
        )
    if symbol in "*+?{":
        raise PatternFault(rf"has {symbol} with nothing to repeat; write \{symbol} for it")
    if symbol in "}]":
        raise PatternFault(rf"has {symbol} without its opening one; write \{symbol} for it")
    point, place = parse_character(pattern, place)
    return Node("set", ((point, point),)), place


def parse_character(pattern: str, place: int) -> tuple[int, int]:
    """The code point of a character or an escape, and the place behind it."""
    symbol = pattern[place]
    if symbol != "\\":
        if "\ud800" <= symbol <= "\udfff":
            raise PatternFault("has half a character (a lone surrogate)")
        return ord(symbol), place + 1
    escaped = pattern[place + 1 : place + 2]
    if escaped in HEX_DIGITS:
        end = place + 2 + HEX_DIGITS[escaped]
        digits = pattern[place + 2 : end]
        if not re.fullmatch(f"[0-9A-Fa-f]{{{HEX_DIGITS[escaped]}}}", digits):
            raise PatternFault(rf"has \{escaped} without {HEX_DIGITS[escaped]} hexadecimal digits")
        if 0xD800 <= int(digits, 16) <= 0xDFFF:
            raise PatternFault(rf"has \u{digits}, half a character; write the character itself")
        return int(digits, 16), end
    if escaped in CONTROLS:
        return ord(CONTROLS[escaped]), place + 2
    if not escaped:
        raise PatternFault(r"ends with a \; write \\ for the character")
    if escaped.isalnum() or not " " <= escaped <= "~":
        reason = REFUSED_ESCAPES.get(escaped, "is no escape of a character; write the character")
        raise PatternFault(rf"has \{escaped}, which {reason}")
    return ord(escaped), place + 2


def parse_class(pattern: str, place: int) -> tuple[Node, int]:
    """The class whose `[` is before a place, and the place behind it."""
    negated = pattern.startswith("^", place)
    place += negated
    start, ranges = place, list[tuple[int, int]]()
    while (symbol := pattern[place : place + 1]) != "]" or place == start:
        if not symbol:
            raise PatternFault(r"has a [ without its ]; write \[ for the character")
        if symbol == "]":
            raise PatternFault(r"has an empty class; write \] for the character")
        if symbol == "-" and place > start and pattern[place + 1 : place + 2] != "]":
            raise PatternFault(r"has a - in the middle of a class; write \- for the character")
        first, place = parse_character(pattern, place)
        last = first
        if pattern.startswith("-", place) and pattern[place + 1 : place + 2] not in ("]", ""):
            last, place = parse_character(pattern, place + 1)
        if last < first:
            raise PatternFault(f"has the range {chr(first)}-{chr(last)}, whose end is first")
        ranges.append((first, last))
    merged = merge(ranges)
    return Node("set", complement(merged) if negated else merged), place + 1


def merge(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Ranges in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """The code points outside some merged ranges."""
    starts = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), LAST_POINT]
    return tuple((first, last) for first, last in zip(starts, ends, strict=True) if first <= last)


def parse_quantifier(pattern: str, place: int, node: Node) -> tuple[Node, int]:
    """A node with the quantifier at a place, if there is one, and the place behind it."""
    found = re.compile(r"[*+?]|\{([0-9]{1,4})(?:(,)([0-9]{1,4})?)?\}").match(pattern, place)
    if not found:
        if pattern.startswith("{", place):
            raise PatternFault(r"has a { that is no {m}, {m,} or {m,n}; write \{ for the character")
        return node, place
    if found[0] in "*+?":
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0]]
    else:
        low = int(found[1])
        high = int(found[3]) if found[3] else None if found[2] else low
    place = found.end()
    if high is not None and (high < low or high == 0):
        raise PatternFault(f"has {found[0]}, which repeats nothing; write {{m,n}} with m up to n")
    if node.empty:
        raise PatternFault(
            f"repeats by {found[0]} what can match the empty text; put the ? or * of a group's "
            "parts behind the group"
        )
    lazy = pattern.startswith("?", place)
    place += lazy
    if pattern[place : place + 1] in ("*", "+", "?", "{"):
        raise PatternFault(
            f"has {pattern[place]} behind a quantifier; write one quantifier, or a group"
        )
    return Node("repeat", parts=(node,), low=low, high=high, lazy=lazy), place


class Step(dict[str, "Step"]):
    """A state of an automaton: the places of the pattern that are looked for next, preferred ones
    first. It maps a character to the next state, computed on first use."""

    def __init__(self, automaton: Automaton, places: tuple[int, ...], accepts: bool) -> None:
        super().__init__()
        self.automaton, self.places = automaton, places
        self.accepts = accepts
        """Whether the pattern matches the characters up to here."""

    def __missing__(self, symbol: str) -> Step:
        return self.automaton.after(self, symbol)


class Automaton:
    """The automaton of a pattern.

    `targets[p]` is None for the end of the pattern. It is (ranges, next) for a character, and the
    list of the next places, preferred ones first, for a fork.
    """

    def __init__(self, pattern: str) -> None:
        self.targets: list[tuple[Ranges, int] | list[int] | None] = [None]
        self.states: dict[tuple[tuple[int, ...], bool], Step] = {}
        self.steps = 0
        begins: list[int] = [self.compiled(parsed(pattern), 0)] if pattern else []
        self.start = self.state(begins)

    def compiled(self, node: Node, following: int) -> int:
        """The place where a node begins whose match continues at `following`."""
        if node.kind == "set":
            return self.added((node.ranges, following))
        if node.kind == "sequence":
            for part in reversed(node.parts):
                following = self.compiled(part, following)
            return following
        if node.kind == "either":
            return self.added([self.compiled(part, following) for part in node.parts])
        (part,) = node.parts
        place = following
        if node.high is None:
            place = self.added(fork := [following])
            fork.insert(1 if node.lazy else 0, self.compiled(part, place))
        else:
            for _ in range(node.high - node.low):
                begin = self.compiled(part, place)
                place = self.added([following, begin] if node.lazy else [begin, following])
        for _ in range(node.low):
            place = self.compiled(part, place)
        return place

    def added(self, target: tuple[Ranges, int] | list[int]) -> int:
        """The number of a new place."""
        self.targets.append(target)
        return len(self.targets) - 1

    def state(self, begins: Sequence[int]) -> Step:
        """The state that looks for some places: forks are followed in order. Places that come after
        the end of the pattern are left out, because a match that ends here is preferred."""
        waiting, seen, places = list(reversed(begins)), set[int](), list[int]()
        accepts = False
        while waiting and not accepts:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            target = self.targets[place]
            if target is None:
                accepts = True
            elif isinstance(target, list):
                waiting.extend(reversed(target))
            else:
                places.append(place)
        key = (tuple(places), accepts)
        return self.states.setdefault(key, Step(self, *key))

    def after(self, step: Step, symbol: str) -> Step:
        """The state after one more character."""
        if self.steps >= MOST_STEPS:
            for state in list(self.states.values()):
                state.clear()
            self.states = {(self.start.places, self.start.accepts): self.start}
            self.steps = 0
        point, begins = ord(symbol), list[int]()
        for place in step.places:
            target = self.targets[place]
            if isinstance(target, tuple) and any(low <= point <= high for low, high in target[0]):
                begins.append(target[1])
        self.steps += 1
        step[symbol] = following = self.state(begins)
        return following


@lru_cache(maxsize=32)
def automaton(pattern: str) -> Automaton:
    """The automaton of a pattern that has no fault; one that matches nothing for no pattern."""
    return Automaton(pattern)


def units_of_pattern(pattern: str, text: str) -> list[str]:
    """The successive matches of a pattern; a character that no match covers is a unit of its own.

    Together the units are the text.
    """
    begin, units, start, size = automaton(pattern).start, list[str](), 0, len(text)
    while start < size:
        step, end = begin, start + 1
        for place in range(start, min(size, start + LONGEST_UNIT)):
            step = step[text[place]]
            if step.accepts:
                end = place + 1
            if not step.places:
                break
        units.append(text[start:end])
        start = end
    return units
