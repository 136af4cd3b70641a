/** Reads and verifies the files of a bundle, so that the runtime gets only what was exported. */

import { BundleError } from "./errors.js";
import { FORMAT, LARGEST_MANIFEST, READABLE_VERSIONS, checkManifest, shown } from "./manifest.js";
import { metadataOf } from "./onnx.js";

const MANIFEST = "manifest.json";
const METADATA_KEY = "kvae";
const AGAIN = "copy the bundle again or export it anew";

/**
 * Returns a reader of the bundle at a URL. A reader is `async (name, most) => Uint8Array` and returns the bytes of a file.
 * If the file has more than `most` bytes, it throws a `BundleError` and does not read on.
 */
export function atUrl(url) {
  const folder = new URL(`${String(url).replace(/\/$/, "")}/`, globalThis.document?.baseURI);
  return async (name, most) => {
    const address = new URL(name, folder);
    const response = await fetch(address).catch((error) => {
      throw new BundleError(`${address}: cannot be fetched (${error.message}); is the server still there?`);
    });
    if (!response.ok)
      throw new BundleError(`${address}: is missing (${response.status}); is this where the bundle lies?`);
    return received(response, address, most);
  };
}

/** The bytes of a response; cancels it and throws a `BundleError` after more than `most` bytes. */
async function received(response, address, most) {
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read().catch((error) => {
      throw new BundleError(`${address}: was not fetched to its end (${error.message}); load it again`);
    });
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > most) {
      await reader.cancel();
      throw tooLarge(address, most);
    }
  }
  const content = new Uint8Array(size);
  parts.reduce((place, part) => (content.set(part, place), place + part.length), 0);
  return content;
}

/** The error for a file with more than `most` bytes. */
export const tooLarge = (file, most) =>
  new BundleError(`${file}: truncated or extended, more than ${most} bytes; ${AGAIN}`);

/** Reads the manifest and checks its version, its checksum and every field. */
export async function readManifest(read) {
  const text = new TextDecoder().decode(await read(MANIFEST, LARGEST_MANIFEST));
  const manifest = parsed(text);
  if (manifest?.format !== FORMAT) throw new BundleError(`${MANIFEST}: not the manifest of a kvae bundle`);
  if (!READABLE_VERSIONS.includes(manifest.format_version)) {
    throw new BundleError(
      `bundle format ${shown(manifest.format_version)}, these examples read ${READABLE_VERSIONS.join(" and ")}; export it anew`,
    );
  }
  if (manifest.sha256 !== (await sha256(new TextEncoder().encode(summed(text))))) {
    throw new BundleError(`${MANIFEST}: changed since it was written (its sum differs); ${AGAIN}`);
  }
  checkManifest(manifest);
  return manifest;
}

/** Reads an endpoint's graph and checks its size and checksum, and that its metadata repeat the manifest. */
export async function readGraph(read, manifest, endpoint) {
  const entry = manifest.endpoints[endpoint];
  if (!entry) throw new BundleError(`the bundle has no ${endpoint}; export the run anew, without --no-plain`);
  const content = await read(entry.file, entry.size);
  if (content.length !== entry.size) {
    throw new BundleError(
      `${entry.file}: truncated or extended, ${content.length} bytes instead of ${entry.size}; ${AGAIN}`,
    );
  }
  if ((await sha256(content)) !== entry.sha256) {
    throw new BundleError(`${entry.file}: damaged, its sha256 is not the one in the manifest; ${AGAIN}`);
  }
  checkMetadata(entry.file, endpoint, metadataOf(content, entry.file)[METADATA_KEY], manifest);
  return content;
}

/** Throws a `BundleError` if a graph's metadata name another endpoint or differ from the manifest in a field. */
function checkMetadata(file, endpoint, metadata, manifest) {
  if (metadata === undefined) throw new BundleError(`${file}: no graph of kvae, its metadata do not name one; ${AGAIN}`);
  let said;
  try {
    said = metadata.length <= 2 * LARGEST_MANIFEST ? JSON.parse(metadata) : undefined;
  } catch {
    said = undefined;
  }
  if (typeof said !== "object" || said === null) throw new BundleError(`${file}: its metadata are damaged; ${AGAIN}`);
  const { endpoints, map, sha256: sum, ...shared } = manifest;
  const wanted = { endpoint, ...shared };
  for (const name of new Set([...Object.keys(wanted), ...Object.keys(said)])) {
    if (!equal(said[name], wanted[name])) {
      throw new BundleError(`${file}: belongs to another bundle, its ${shown(name)} is another one; ${AGAIN}`);
    }
  }
}

/** True if two JSON values are equal, ignoring the order of names. `other` bounds the depth and must be shallow. */
function equal(one, other) {
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return one === other;
  const names = Object.keys(other);
  return (
    Array.isArray(one) === Array.isArray(other) &&
    Object.keys(one).length === names.length &&
    names.every((name) => Object.hasOwn(one, name) && equal(one[name], other[name]))
  );
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new BundleError(`${MANIFEST}: damaged, it is not JSON (${error.message.replace(/\s+/g, " ")}); ${AGAIN}`);
  }
}

async function sha256(content) {
  if (!globalThis.crypto?.subtle)
    throw new BundleError("files can only be verified on https or on localhost; open the page there");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The text whose checksum is in a manifest: the manifest without the checksum, on one line and in ASCII.
 *
 * It is made from the text of the file, because the parsed object loses the spelling of numbers.
 */
function summed(text) {
  const escaped = (symbol) => `\\u${symbol.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text
    .replace(/\n "sha256": "\w*",|,\n "sha256": "\w*"(?=\n})/, "")
    .replace(/,\n */g, ", ")
    .replace(/\n */g, "")
    .replace(/[^ -~]/g, escaped);
}
