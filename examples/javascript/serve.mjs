#!/usr/bin/env node
/**
 * Serves the page on this machine: `node serve.mjs BUNDLE --port 8080`.
 * With `--write FOLDER`, writes the page and the bundle as files for any web server.
 */

import { createReadStream } from "node:fs";
import { cp, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = dirname(fileURLToPath(import.meta.url));
/** The file of a bundle with held-out texts, which the page does not need and others should not get by accident. */
const MAP = "map.json";
const RUNTIME = "node_modules/onnxruntime-web/dist";
/** Files that the page loads, as paths in this folder; their URLs have the same paths. */
const PARTS = ["web", "kvae", `${RUNTIME}/ort.wasm.bundle.min.mjs`, `${RUNTIME}/ort-wasm-simd-threaded.wasm`];
const KINDS = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** The file for a URL path, or undefined if it belongs to neither the page nor the bundle. */
function fileOf(address, bundle) {
  const path = normalize(address).slice(1);
  if (path === `bundle/${MAP}`) return undefined;
  if (path.startsWith("bundle/")) return join(bundle, path.slice("bundle/".length));
  const isPart = PARTS.some((part) => path === part || path.startsWith(`${part}/`));
  return isPart ? join(HERE, path.endsWith("/") ? `${path}index.html` : path) : undefined;
}

async function answer(request, response, bundle) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/") return response.writeHead(302, { Location: "/web/" }).end();
  const file = fileOf(decodeURIComponent(pathname), bundle);
  const found = file && (await stat(file).catch(() => undefined));
  if (!found?.isFile()) return response.writeHead(404).end("not found\n");
  const kind = KINDS[extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { "Content-Type": kind, "Content-Length": found.size, "Cache-Control": "no-cache" });
  return request.method === "HEAD" ? response.end() : createReadStream(file).pipe(response);
}

/** Starts a server of the page on the loopback address and resolves once it listens; port 0 picks a free port. */
export async function serve(bundle, port) {
  const server = createServer((request, response) => {
    answer(request, response, bundle).catch(() => response.writeHead(400).end());
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return server;
}

/** Copies the page and the bundle, without its map, to a folder; the page is at `FOLDER/web/`. */
async function write(bundle, folder) {
  for (const part of PARTS) await cp(join(HERE, part), join(folder, part), { recursive: true });
  const filter = (file) => basename(file) !== MAP;
  await cp(bundle, join(folder, "bundle"), { recursive: true, filter });
}

async function main(words) {
  const options = { port: { type: "string", default: "8080" }, write: { type: "string" } };
  const { values, positionals } = parseArgs({ args: words, options, allowPositionals: true });
  const [bundle] = positionals;
  if (!bundle) throw new Error("usage: node serve.mjs BUNDLE [--port 8080 | --write FOLDER]");
  if (values.write) return write(bundle, values.write);
  const server = await serve(bundle, Number(values.port));
  console.log(`http://localhost:${server.address().port}/web/`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
