#!/usr/bin/env node
/**
 * Uses the page as a person does, in a browser without a window: `KVAE_CHROMIUM=/path/to/chromium node drive.mjs BUNDLE < ACTIONS`.
 *
 * ACTIONS is a JSON list: ["open", query], ["fill", id, value], ["drag", slider, value], ["press", name] or
 * ["photograph", file]. What the page shows after each is printed as a JSON list.
 */

import { once } from "node:events";
import { text as all } from "node:stream/consumers";

import { chromium } from "playwright-core";

import { serve } from "./serve.mjs";

const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PATIENCE = 120_000;

const ACTIONS = {
  open: (page, root, query) => page.goto(`${root}/web/${query}`),
  fill: (page, root, id, value) => page.locator(`#${id}`).fill(String(value)),
  drag: (page, root, number, value) => page.locator("#sliders input").nth(number).fill(String(value)),
  press: (page, root, name) => page.getByRole("button", { name }).click(),
  photograph: (page, root, path) => page.screenshot({ path, fullPage: true }),
};

/** What stands on the page once nothing is under way. */
async function shown(page) {
  await page.waitForSelector("#page[aria-busy=false]");
  return page.evaluate(() => ({
    text: document.getElementById("text").value,
    python: document.getElementById("python").textContent,
    problem: document.getElementById("problem").textContent,
    usable: !document.getElementById("controls").disabled,
    sliders: Array.from(document.querySelectorAll("#sliders output"), (output) => output.value),
    addresses: performance.getEntriesByType("resource").map((entry) => entry.name),
  }));
}

async function main(bundle) {
  const executablePath = process.env.KVAE_CHROMIUM;
  if (!bundle || !executablePath) throw new Error("usage: KVAE_CHROMIUM=/path/to/chromium node drive.mjs BUNDLE < ACTIONS");
  const actions = JSON.parse(await all(process.stdin));
  const server = await serve(bundle, 0);
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
  try {
    const page = await browser.newPage({ viewport: { width: 1100, height: 760 } });
    page.setDefaultTimeout(PATIENCE);
    page.on("console", (message) => console.error(message.text()));
    page.on("pageerror", (error) => console.error(error));
    const observed = [];
    for (const [action, ...rest] of actions) {
      await ACTIONS[action](page, `http://localhost:${server.address().port}`, ...rest);
      observed.push(await shown(page));
    }
    console.log(JSON.stringify(observed));
  } finally {
    await browser.close();
    server.close();
    await once(server, "close");
  }
}

await main(process.argv[2]);
