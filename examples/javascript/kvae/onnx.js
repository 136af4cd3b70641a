/** Reads the metadata of an ONNX file without a runtime. */

import { BundleError } from "./errors.js";

/** Field numbers in onnx.proto3: of `metadata_props` in a model, and of key and value in its entries. */
const METADATA = 14;
const [KEY, VALUE] = [1, 2];
const [VARINT, FIXED_64, BYTES, FIXED_32] = [0, 1, 2, 5];
/** Most fields of a model; a graph of kvae has six. */
const MOST_PARTS = 10_000;

/** The metadata of a model as an object of strings; throws a `BundleError` that names the file `name`. */
export function metadataOf(content, name) {
  try {
    const entries = fieldsOf(content).filter(([number]) => number === METADATA);
    return Object.fromEntries(
      entries.map(([, bytes]) => {
        const entry = new Map(fieldsOf(bytes));
        return [textOf(entry.get(KEY)), textOf(entry.get(VALUE))];
      }),
    );
  } catch (error) {
    throw new BundleError(`${name}: not an ONNX file (${error.message}); export the bundle anew`);
  }
}

/** [field number, bytes] of each length-delimited field of a protobuf message. */
function fieldsOf(data) {
  const found = [];
  let position = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (position >= data.length || scale > 2 ** 63) throw new RangeError("it ends in the middle of a number");
      const byte = data[position++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  };
  const sizes = { [FIXED_64]: () => 8, [BYTES]: varint, [FIXED_32]: () => 4 };
  for (let parts = 0; position < data.length; parts += 1) {
    if (parts > MOST_PARTS) throw new RangeError(`it has more than ${MOST_PARTS} parts`);
    const key = varint();
    const kind = key % 8;
    if (kind === VARINT) varint();
    else if (!sizes[kind]) throw new RangeError(`wire type ${kind}`);
    else {
      const size = sizes[kind]();
      if (position + size > data.length) throw new RangeError("it ends in the middle of a field");
      if (kind === BYTES) found.push([Math.floor(key / 8), data.subarray(position, position + size)]);
      position += size;
    }
  }
  return found;
}

const textOf = (bytes) => new TextDecoder("utf-8", { fatal: true }).decode(bytes ?? new Uint8Array());
