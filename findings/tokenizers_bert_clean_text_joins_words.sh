#!/usr/bin/env bash
# tokenizers 0.23.3: `BertNormalizer(clean_text=True)`, and white space that is a control character.
#
# A good engineer guesses: `clean_text` removes control characters and turns all white space into blanks; a vertical
# tab, a form feed and U+0085 (next line) are white space to Python and to Unicode, so they become blanks.
# What happens: tab, line feed and carriage return become blanks, the other three are deleted as control characters. The words on
# both sides are joined. Form feeds stand between the pages of texts that were taken out of PDF files.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     'a\tb' -> 'a b', 'a\x0bb' -> 'ab', 'a\x0cb' -> 'ab', 'a\x85b' -> 'ab'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PROGRAM'
from tokenizers import normalizers

clean = normalizers.BertNormalizer(lowercase=False)
texts = ["a\tb", "a\x0bb", "a\x0cb", "a\x85b"]
found = [clean.normalize_str(text) for text in texts]
print(", ".join(f"{text!r} -> {cleaned!r}" for text, cleaned in zip(texts, found)))
if found != ["a b", "ab", "ab", "ab"] or any(len(text.split()) != 2 for text in texts):
    raise SystemExit("changed: white space that is a control character is treated in another way")
PROGRAM
