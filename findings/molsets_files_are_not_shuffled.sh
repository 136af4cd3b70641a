#!/usr/bin/env bash
# molsets 0.3.1: the order of the molecules in the files of MOSES.
#
# A good engineer guesses: the benchmark was split at random, so the first lines of a file are a random sample of it, good
# enough for a quick look or a small reference set.
# What happens: which molecule is in which file is random, but the lines of a file keep the order of the source. The mean length
# of blocks of 2,000 lines varies ten times as much as that of random samples. A measure of distributions on the first lines
# differs a lot: MOSES' own Frechet ChemNet distance between lines of the scaffold test set and that whole set is 6.3 for the
# first 3,000 lines and 0.53 for 3,000 random lines.
# Seen on Linux x86_64, Python 3.11, 2026-11-29:
#
#     file                 lines  deviation of block means  of random samples
#     train            1,584,663               1.63 letters  0.10 letters
#     test               176,074               1.21 letters  0.10 letters
#     test_scaffolds     176,225               1.14 letters  0.10 letters
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" molsets==0.3.1
cat >"$folder/program.py" <<'PROGRAM'
import gzip
import statistics
import sys
import zipfile

BLOCK = 2000
print(f"{'file':16} {'lines':>9}  {'deviation of block means':>24}  of random samples")
for name in ("train", "test", "test_scaffolds"):
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        lines = gzip.decompress(wheel.read(f"moses/dataset/data/{name}.csv.gz")).decode().split()[1:]
    lengths = [len(line) for line in lines]
    means = [statistics.fmean(lengths[start : start + BLOCK]) for start in range(0, len(lengths) - BLOCK, BLOCK)]
    found, expected = statistics.pstdev(means), statistics.pstdev(lengths) / BLOCK**0.5
    print(f"{name:16} {len(lines):9,}  {found:17.2f} letters  {expected:.2f} letters")
    if found < 5 * expected:
        raise SystemExit(f"changed: {name} looks shuffled")
PROGRAM
python3 "$folder/program.py" "$folder"/molsets-*.whl
