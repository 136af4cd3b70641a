#!/usr/bin/env bash
# pyarrow 26.0.1: the field of a struct column whose parent is null.
#
# A good engineer guesses: `array.field("name")` and `pyarrow.compute.struct_field(array, "name")` are two spellings of one
# thing, and where the struct is null its field is null.
# What happens: `field` gives the child array as it lies in memory, without the validity of its parent. Where the struct is null
# it gives whatever value lies there. `struct_field` and `flatten` give null. So a row that has no record at all can come out
# with a text.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     field: ['hidden', 'b'], struct_field: [None, 'b'], flatten: [None, 'b']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PROGRAM'
import pyarrow as pa
import pyarrow.compute

records = pa.StructArray.from_arrays([pa.array(["hidden", "b"])], ["text"], mask=pa.array([True, False]))
field = records.field("text").to_pylist()
computed = pyarrow.compute.struct_field(records, "text").to_pylist()
flat = records.flatten()[0].to_pylist()
print(f"field: {field}, struct_field: {computed}, flatten: {flat}")
if field != ["hidden", "b"] or computed != [None, "b"] or flat != [None, "b"]:
    raise SystemExit("changed: the field of a null struct is another value")
PROGRAM
