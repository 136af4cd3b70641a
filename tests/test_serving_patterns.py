"""Patterns: units are what Python's `re` finds, other regular expressions are refused."""

import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kvae.serving.patterns import (
    LONGEST_UNIT,
    MOST_PLACES,
    automaton,
    pattern_fault,
    units_of_pattern,
)

SMILES = r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|[BCNOPSFI]|[bcnops]|[0-9]|[=#$:~\-/\\.]|[()]"
"""The parts of a SMILES string (Weininger 1988): an atom in brackets, the organic atoms, ring
closures of one and of two digits, bonds and branches."""

MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@H](N)C(=O)O.Cl",
    "F/C=C\\F",
    "[Na+].[O-]c1ccc(Br)cc1",
    "C%12CCCCC%12[13CH4]",
    "CC1=C(C=C(C=C1)NC(=O)C)Cl",
    "unclosed [nH and strange é🙂",
]

KNOWN = {
    "smiles": SMILES,
    "words and numbers": r"[A-Za-z]+|[0-9]+(?:\.[0-9]+)?| +",
    "lazy": r"<.+?>|a{2,4}?b|x*?y",
    "first alternative": r"a|ab|abc",
    "ambiguous": r"(?:a|a|aa)+b",
    "nested": r"(?:(?:ab|c){1,3}d?)+",
    "any": r"..",
    "beyond the plane": r"[\u0100-\uffff🙂-🙃]+|é{2}",
    "controls": r"\t+|[\n\r]|\x41\x42|[ -/]",
}
"""Patterns that a test tries on every text."""

LETTERS = "abcé🙂-]\n"
CHARACTERS = st.sampled_from(["a", "b", "c", "é", "🙂", r"\-", r"\]", r"\n", "."])
ATOMS = CHARACTERS | st.sampled_from(["[ab]", "[^ab]", "[a-c]", "[^🙂]", r"[\]é\-]", r"[^\n]"])
QUANTIFIERS = st.sampled_from(
    ["+", "*", "?", "{2}", "{1,2}", "{2,}", "{0,3}", "+?", "*?", "??", "{1,3}?", "{0,}?"]
)


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Patterns made of smaller ones."""
    group = parts.map("({})".format) | parts.map("(?:{})".format)
    return st.one_of(
        st.lists(parts, min_size=2, max_size=3).map("".join),
        st.lists(parts, min_size=2, max_size=3).map("|".join).map("(?:{})".format),
        st.tuples(ATOMS | group, QUANTIFIERS).map("".join),
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=8)
"""Random patterns; some of them can match the empty text, or repeat what can."""

TEXTS = st.text(st.sampled_from(LETTERS), max_size=20)


def units_by_re(pattern: str, text: str) -> list[str]:
    """The units as Python's `re` finds them."""
    compiled, place, units = re.compile(pattern), 0, []
    while place < len(text):
        found = compiled.match(text, place)
        end = found.end() if found else place + 1
        units.append(text[place:end])
        place = end
    return units


@given(PATTERNS, TEXTS)
@example(r"(?:a|ab)(?:c|bcd)?", "abcd")
@example(r"(?:a??b)*?c", "ababc")
@example(r"a{0,3}?b|[^é]{2}", "aab")
def test_units_are_those_of_re(pattern: str, text: str) -> None:
    assume(pattern_fault(pattern) is None)
    units = units_of_pattern(pattern, text)
    assert units == units_by_re(pattern, text)
    assert "".join(units) == text


@pytest.mark.parametrize("name", KNOWN)
@given(st.text(max_size=30) | st.text(st.sampled_from(LETTERS + "xyd<>0. AB\t"), max_size=30))
def test_known_patterns_find_what_re_finds(name: str, text: str) -> None:
    assert units_of_pattern(KNOWN[name], text) == units_by_re(KNOWN[name], text)


@given(PATTERNS, TEXTS, st.integers(0, 20))
def test_the_first_units_of_a_text_are_units_without_the_rest(
    pattern: str, text: str, count: int
) -> None:
    assume(pattern_fault(pattern) is None)
    units = units_of_pattern(pattern, text)
    assert units_of_pattern(pattern, "".join(units[:count])) == units[:count]


def test_molecules_are_split_into_atoms_bonds_and_rings() -> None:
    assert units_of_pattern(SMILES, "C[C@H](Br)c1ccc%12Cl") == [
        *("C", "[C@H]", "(", "Br", ")", "c", "1", "c", "c", "c", "%12", "Cl")
    ]
    for molecule in MOLECULES:
        assert units_of_pattern(SMILES, molecule) == units_by_re(SMILES, molecule)


@pytest.mark.parametrize("pattern", [r"(?:a|a)*b", r"(?:aa?)*b", r"a*a*a*a*a*a*b", r"(?:a|aa)+!"])
def test_a_pattern_that_keeps_re_busy_for_ever_takes_a_moment(pattern: str) -> None:
    assert pattern_fault(pattern) is None
    assert len(units_of_pattern(pattern, "a" * 500)) == 500


def test_states_without_number_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvae.serving.patterns.MOST_STEPS", 50)
    pattern = "[ab]*a[ab]{6}c"
    text = "".join("ab"[number * number % 7 % 2] for number in range(300)) + "c"
    assert units_of_pattern(pattern, text) == units_by_re(pattern, text)
    assert len(automaton(pattern).states) <= 60


def test_a_unit_has_a_largest_size() -> None:
    units = units_of_pattern("a+", "a" * (2 * LONGEST_UNIT + 5))
    assert list(map(len, units)) == [LONGEST_UNIT, LONGEST_UNIT, 5]


REFUSED = {
    "": "is empty",
    "a*": "matches the empty text",
    "(?:a?)+": "repeats by + what can match the empty text",
    "(?:a*)*": "repeats by * what can match the empty text",
    "a|": "empty alternative",
    "()": "empty alternative or group",
    "a**": "behind a quantifier",
    "a++": "behind a quantifier",
    "a{2}{3}": "behind a quantifier",
    "*a": "nothing to repeat",
    "a{,3}": "write \\{",
    "a{": "write \\{",
    "a{0}": "repeats nothing",
    "a{3,2}": "repeats nothing",
    "a}": "write \\}",
    "a]": "write \\]",
    "(a": "write \\(",
    "a)": "write \\)",
    "[a": "write \\[",
    "[]": "empty class",
    "[^]": "empty class",
    "[]a]": "empty class",
    "[b-a]": "whose end is first",
    "[a-c-e]": "write \\-",
    "^a": "anchor ^",
    "a$": "anchor $",
    "a\\": "ends with a \\",
    r"\d": "write [0-9]",
    r"[\w]": "write [A-Za-z0-9_]",
    r"\s+": r"write [ \t\r\n]",
    r"\ba": "looks beyond the unit",
    r"[\b]": "looks beyond",
    r"\p{L}": "version of Unicode",
    r"(a)\1": r"has \1, which is no escape",
    r"\A": "no escape",
    r"\x4": "2 hexadecimal digits",
    r"\u12": "4 hexadecimal digits",
    r"\ud83d": "half a character",
    "\ud83d": "half a character",
    "(?=a)b": "looks beyond",
    "(?!a)b": "looks beyond",
    "(?<=a)b": "looks back",
    "(?<name>a)": "named group",
    "(?P<name>a)": "named group",
    "(?>a)": "atomic group",
    "(?i)a": "flag",
    "(?i:a)": "flag",
    "(?#a)b": "flag",
    "a" * 1001: "at most 1,000",
    "(" * 30 + "a" + ")" * 30: "more than 20 groups",
    "(?:a{100}){100}": f"at most {MOST_PLACES:,}",
}


@pytest.mark.parametrize("pattern", REFUSED, ids=lambda pattern: ascii(pattern[:12]))
def test_what_languages_read_differently_is_refused_with_a_way_out(pattern: str) -> None:
    fault = pattern_fault(pattern)
    assert fault is not None
    assert REFUSED[pattern] in fault
    assert "\n" not in fault


@given(st.text(st.sampled_from("ab[]()|*+?{}\\^$.-,01:=!<\n\ud800é"), max_size=12) | st.text())
def test_whatever_a_pattern_is_it_has_a_fault_or_is_one_for_re_too(pattern: str) -> None:
    started = time.process_time()
    if pattern_fault(pattern) is None:
        re.compile(pattern)
    assert time.process_time() - started < 5
