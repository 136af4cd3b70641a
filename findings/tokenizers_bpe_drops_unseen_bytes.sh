#!/usr/bin/env bash
# tokenizers 0.23.3: byte-level BPE that is trained with the defaults of `BPE` and `BpeTrainer`.
#
# A good engineer guesses: a byte-level tokenizer can encode any text without an unknown token, since there are only 256 bytes.
# What happens: the trainer starts from the bytes that it has seen. A byte that the training texts lack has no symbol, and
# without an `unk_token` it is left out of the encoding: no error, and decoding gives another text. With
# `initial_alphabet=ByteLevel.alphabet()` every text comes back.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     defaults: 'abxc' comes back as 'abc'; with the initial alphabet: 'abxc'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PROGRAM'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def back(text, **options):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, **options)
    tokenizer.train_from_iterator(["abc abc"], trainer)
    return tokenizer.decode(tokenizer.encode(text).ids)


default, complete = back("abxc"), back("abxc", initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
print(f"defaults: 'abxc' comes back as {default!r}; with the initial alphabet: {complete!r}")
if (default, complete) != ("abc", "abxc"):
    raise SystemExit("changed: bytes that were not seen are encoded in another way")
PROGRAM
