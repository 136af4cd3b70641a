/** Bundles in a folder, for Node. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { BundleError } from "./errors.js";

/** Reads the files of a bundle that lies in a folder. */
export function inFolder(path) {
  return async (name) => {
    const file = join(path, name);
    return readFile(file).catch((error) => {
      throw new BundleError(`${file}: cannot be read (${error.code}); give the folder that 'kvae export' wrote`);
    });
  };
}
