#!/usr/bin/env bash
# pyarrow 26.0.1: an Arrow IPC stream that was cut off between two record batches.
#
# A good engineer guesses: a reader notices that the file is incomplete, as it does for a Parquet file or an Arrow file
# without its footer.
# What happens: the end-of-stream marker is optional, so a stream that ends after a whole batch is read as a shorter one.
# No error, no warning; the rows that were cut off are missing. A cut inside a batch does raise an error.
# Whoever receives streams over an unreliable way has to send the number of rows beside them, or use the file format.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     stream cut after 1 of 3 batches: 2 of 6 rows, no error
#     file cut at the same place: ArrowInvalid
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PROGRAM'
import pyarrow as pa

batch = pa.record_batch({"text": ["a", "b"]})


def written(writer_of):
    """The bytes of three batches, and their length after the first."""
    sink = pa.BufferOutputStream()
    writer = writer_of(sink, batch.schema)
    writer.write(batch)
    after_one = sink.tell()
    writer.write(batch)
    writer.write(batch)
    writer.close()
    return sink.getvalue().to_pybytes(), after_one


content, cut = written(pa.ipc.new_stream)
rows, all_rows = (pa.ipc.open_stream(part).read_all().num_rows for part in (content[:cut], content))
print(f"stream cut after 1 of 3 batches: {rows} of {all_rows} rows, no error")
content, cut = written(pa.ipc.new_file)
try:
    pa.ipc.open_file(content[:cut]).read_all()
    error = "no error"
except pa.ArrowInvalid as raised:
    error = type(raised).__name__
print(f"file cut at the same place: {error}")
if (rows, all_rows, error) != (2, 6, "ArrowInvalid"):
    raise SystemExit("changed: a stream that was cut off between two batches is read in another way")
PROGRAM
