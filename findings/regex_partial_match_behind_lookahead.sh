#!/usr/bin/env bash
# regex 2026.11.15: partial matches of a pattern with a look-ahead that reads to the end of the text.
#
# A good engineer guesses: regex.fullmatch(pattern, text, partial=True) is None for a text that no further characters can make a
# match. Without assertions that is so.
# What happens: once a look-ahead reaches the end of the text, the result is a partial match, and the rest of the pattern is not
# tried. So with (?=.*c) in front of [ab]*c, every text is a partial match, whatever its characters. The same condition behind
# the pattern, as a look-behind, changes nothing.
# Seen on Linux x86_64, Python 3.11, 2026-11-29:
#
#     regex 2026.11.15
#     pattern         text  partial match  can become a match
#     [ab]*c          'ab'  True           True
#     [ab]*c          'xx'  False          False
#     (?=.*c)[ab]*c   'ab'  True           True
#     (?=.*c)[ab]*c   'xx'  True           False
#     [ab]*c(?<=c)    'xx'  False          False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check regex==2026.11.15
cat >"$folder/program.py" <<'PROGRAM'
import itertools
from importlib.metadata import version

import regex

LOOK_AHEAD = r"(?=.*c)[ab]*c"
CASES = [(r"[ab]*c", "ab"), (r"[ab]*c", "xx"), (LOOK_AHEAD, "ab"), (LOOK_AHEAD, "xx"), (r"[ab]*c(?<=c)", "xx")]


def can_match(pattern, text):
    """Whether up to three more characters make a text a match."""
    further = ("".join(letters) for n in range(4) for letters in itertools.product("abcx", repeat=n))
    return any(regex.fullmatch(pattern, text + rest) for rest in further)


print("regex", version("regex"))
print(f"{'pattern':15} {'text':5} {'partial match':14} can become a match")
differing = []
for pattern, text in CASES:
    partial, possible = regex.fullmatch(pattern, text, partial=True) is not None, can_match(pattern, text)
    print(f"{pattern:15} {text!r:5} {partial!s:14} {possible}")
    if partial != possible:
        differing.append((pattern, text))
if differing != [(LOOK_AHEAD, "xx")]:
    raise SystemExit(f"changed: partial matches are wrong for {differing}")
PROGRAM
"$folder/environment/bin/python" "$folder/program.py"
