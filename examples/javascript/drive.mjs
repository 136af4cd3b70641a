#!/usr/bin/env node
/**
 * Drives the page in a headless browser: `KVAE_CHROMIUM=/usr/bin/chromium node drive.mjs PAGE < ACTIONS`.
 *
 * ACTIONS is a JSON list: ["fill", id, value], ["choose", id, value], ["drag", slider, position], ["press", name] or
 * ["photograph", file]. Prints a JSON list of what the page shows: once after loading, and once after each action.
 */

import { text as all } from "node:stream/consumers";

import { chromium } from "playwright-core";

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
  fill: (page, id, value) => page.locator(`#${id}`).fill(String(value)),
  choose: (page, id, value) => page.locator(`#${id}`).selectOption(value),
  drag: (page, slider, position) => page.locator("#sliders input").nth(slider).fill(String(position)),
  press: (page, name) => page.getByRole("button", { name }).click(),
  photograph: (page, path) => page.screenshot({ path, fullPage: true }),
};

/** What the page shows once no task is running. */
async function shown(page) {
  await page.waitForSelector("#page[aria-busy=false]");
  return page.evaluate(() => ({
    text: document.getElementById("text").value,
    model: document.getElementById("model").textContent,
    python: document.getElementById("python").textContent,
    problem: document.getElementById("problem").textContent,
    usable: !document.getElementById("controls").disabled,
    sliders: Array.from(document.querySelectorAll("#sliders output"), (output) => output.value),
    origin: location.origin,
    addresses: performance.getEntriesByType("resource").map((entry) => entry.name),
  }));
}

async function main(address) {
  const executablePath = process.env.KVAE_CHROMIUM;
  if (!address || !executablePath)
    throw new Error("usage: KVAE_CHROMIUM=/usr/bin/chromium node drive.mjs PAGE < ACTIONS");
  const actions = JSON.parse(await all(process.stdin));
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
  try {
    const page = await browser.newPage({ viewport: { width: 1100, height: 760 } });
    page.setDefaultTimeout(PATIENCE);
    page.on("console", (message) => console.error(message.text()));
    page.on("pageerror", (error) => console.error(error));
    await page.goto(address);
    const observed = [await shown(page)];
    for (const [action, ...rest] of actions) {
      await ACTIONS[action](page, ...rest);
      observed.push(await shown(page));
    }
    console.log(JSON.stringify(observed));
  } finally {
    await browser.close();
  }
}

await main(process.argv[2]);
