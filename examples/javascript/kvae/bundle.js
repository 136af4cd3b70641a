/** A bundle's files, read and verified: nothing reaches the runtime that is not what was exported. */

import { BundleError } from "./errors.js";

const FORMAT = "kvae-bundle";
const FORMAT_VERSION = 2;
const MANIFEST = "manifest.json";
const REQUIRED = ["endpoints", "latent", "length", "mode", "model_id", "seed_test", "vocabulary"];
const AGAIN = "copy the bundle again or export it anew";

/** Reads the files of a bundle that lies at a URL. A reader is `async (name) => Uint8Array`. */
export function atUrl(url) {
  const folder = new URL(`${String(url).replace(/\/$/, "")}/`, globalThis.document?.baseURI);
  return async (name) => {
    const address = new URL(name, folder);
    const response = await fetch(address).catch((error) => {
      throw new BundleError(`${address}: cannot be fetched (${error.message}); is the server still there?`);
    });
    if (!response.ok)
      throw new BundleError(`${address}: is missing (${response.status}); is this where the bundle lies?`);
    return new Uint8Array(await response.arrayBuffer());
  };
}

/** The manifest, known to be of a version we read and unchanged since it was written. */
export async function readManifest(read) {
  const text = new TextDecoder().decode(await read(MANIFEST));
  const manifest = parsed(text);
  if (manifest?.format !== FORMAT) throw new BundleError(`${MANIFEST}: not the manifest of a kvae bundle`);
  if (manifest.format_version !== FORMAT_VERSION) {
    throw new BundleError(
      `bundle format ${manifest.format_version}, these examples read ${FORMAT_VERSION}; export it anew`,
    );
  }
  if (manifest.sha256 !== (await sha256(new TextEncoder().encode(summed(text))))) {
    throw new BundleError(`${MANIFEST}: changed since it was written (its sum differs); ${AGAIN}`);
  }
  const missing = REQUIRED.find((name) => !(name in manifest));
  if (missing) throw new BundleError(`${MANIFEST}: lacks '${missing}'; export it anew`);
  return manifest;
}

/** The bytes of an endpoint's graph, of the size and the sum that the manifest gives. */
export async function readGraph(read, manifest, endpoint) {
  const entry = manifest.endpoints[endpoint];
  if (!entry) throw new BundleError(`${MANIFEST}: names no ${endpoint}; export it anew`);
  if (!/^[\w-]+\.onnx$/.test(entry.file))
    throw new BundleError(`${MANIFEST}: names a file outside the bundle (${entry.file})`);
  const content = await read(entry.file);
  if (content.length !== entry.size) {
    throw new BundleError(
      `${entry.file}: truncated or extended, ${content.length} bytes instead of ${entry.size}; ${AGAIN}`,
    );
  }
  if ((await sha256(content)) !== entry.sha256) {
    throw new BundleError(`${entry.file}: damaged, its sha256 is not the one in the manifest; ${AGAIN}`);
  }
  return content;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new BundleError(`${MANIFEST}: damaged, it is not JSON (${error.message}); ${AGAIN}`);
  }
}

async function sha256(content) {
  if (!globalThis.crypto?.subtle)
    throw new BundleError("files can only be verified on https or on localhost; open the page there");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * What the sum of a manifest was taken over: all of it but the sum, on one line and in ASCII.
 *
 * It is made from the text and not from the parsed object, which would lose how numbers are spelled.
 */
function summed(text) {
  const escaped = (symbol) => `\\u${symbol.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text
    .replace(/\n "sha256": "\w*",|,\n "sha256": "\w*"(?=\n})/, "")
    .replace(/,\n */g, ", ")
    .replace(/\n */g, "")
    .replace(/[^ -~]/g, escaped);
}
