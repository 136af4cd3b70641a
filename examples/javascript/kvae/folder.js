/** Reads bundles from a folder, in Node. */

import { open } from "node:fs/promises";
import { join } from "node:path";

import { tooLarge } from "./bundle.js";
import { BundleError } from "./errors.js";

/** Returns a reader of the bundle in a folder (see `atUrl`). */
export function inFolder(path) {
  return async (name, most) => {
    const file = join(path, name);
    const opened = await open(file).catch(unreadable(file));
    try {
      const { size } = await opened.stat();
      if (size > most) throw tooLarge(file, most);
      return await opened.readFile().catch(unreadable(file));
    } finally {
      await opened.close();
    }
  };
}

const unreadable = (file) => (error) => {
  throw new BundleError(`${file}: cannot be read (${error.code}); give the folder that 'kvae export' wrote`);
};
