/** The page: a latent code, controls that move it, and the text that the sampler decodes from it. */

import * as ort from "onnxruntime-web";

import { ConfigError, KvaeError, Sampler } from "../kvae/index.js";
import { between } from "../kvae/sampler.js";
import { directionsOf, dot } from "./directions.js";

ort.env.wasm.proxy = true;

const RANGE = 4;
const REMEMBERED = 5;
const element = (id) => document.getElementById(id);
const fixed = (number) => number.toFixed(2);

/** The state of the page. `start` is the origin of the code (seed and attribute, or text), for the Python snippet. */
const state = { sampler: undefined, code: undefined, start: undefined, moved: false, directions: [], way: undefined };

/* --- starting points --- */

async function fromSeed() {
  const seed = seedOf(element("seed").value);
  const attribute = element("attribute").value || undefined;
  return begin(await state.sampler.drawCodes(1, seed, { attribute }), { seed, attribute });
}

async function fromText() {
  const text = element("own").value;
  return begin(await state.sampler.encode(text), { text });
}

function begin([code], start) {
  Object.assign(state, { code, start, moved: false });
  forgetTheWay();
  return show();
}

function seedOf(text) {
  if (!/^\d+$/.test(text)) throw new ConfigError(`seed must be a whole number, got '${text}'`);
  return BigInt(text);
}

function randomSeed() {
  element("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  return fromSeed();
}

/* --- moving --- */

function moveAlong(direction, position) {
  const pace = (position - positionOf(direction)) * direction.scale;
  moveTo(state.code.map((value, place) => value + pace * direction.vector[place]));
  forgetTheWay();
}

const positionOf = ({ vector, scale }) => dot(state.code, vector) / scale;

async function setGoal() {
  const [goal] = await state.sampler.encode(element("goal").value);
  state.way = { from: state.code, to: goal };
  element("way").disabled = false;
  element("way").value = 0;
  return show();
}

function goTheWay() {
  moveTo(between(state.way.from, state.way.to, Number(element("way").value)));
}

function forgetTheWay() {
  state.way = undefined;
  element("way").value = 0;
  element("way").disabled = true;
}

function moveTo(code) {
  Object.assign(state, { code, moved: true });
}

/* --- showing --- */

const show = latest(async () => {
  showControls();
  const { code, start } = state;
  const [text] = await state.sampler.decode([code], start.seed ?? 0, choices());
  showText(text);
  element("python").textContent = python();
});

function showControls() {
  const temperature = Number(element("temperature").value);
  element("temperature-value").value = temperature ? fixed(temperature) : "greedy";
  element("way-value").value = state.way ? `${Math.round(100 * Number(element("way").value))} %` : "";
  for (const direction of state.directions) {
    const position = positionOf(direction);
    direction.slider.value = position;
    direction.shown.value = fixed(position);
  }
}

function showText(text) {
  const output = element("text");
  if (output.value && output.value !== text) {
    element("trail").prepend(Object.assign(document.createElement("li"), { textContent: output.value }));
    Array.from(element("trail").children).forEach((item, age) => item.style.setProperty("--age", age));
    Array.from(element("trail").children)
      .slice(REMEMBERED)
      .forEach((item) => item.remove());
  }
  output.value = text;
}

/** Sampling options for `Sampler`; without them `decode` is greedy. */
function choices() {
  const temperature = Number(element("temperature").value);
  return temperature ? { temperature } : {};
}

function python() {
  const { seed, attribute, text } = state.start;
  const { temperature } = choices();
  const chosen = temperature ? `temperature=${temperature}` : "greedy=True";
  const label = attribute ? `, attribute=${JSON.stringify(attribute)}` : "";
  const lines = ["from kvae.serving import Sampler", "", 'sampler = Sampler.load("bundle")'];
  if (seed !== undefined && !state.moved) {
    return [...lines, `sampler.sample(1, seed=${seed}, ${chosen}${label})`].join("\n");
  }
  const numbers = Array.from(state.code, (value) => Number(value.toPrecision(9)));
  const codes = state.moved ? `[[${numbers.join(", ")}]]` : `sampler.encode(${JSON.stringify(text)})`;
  return [...lines, `codes = ${codes}`, `sampler.decode(codes, seed=${seed ?? 0}, ${chosen})`].join("\n");
}

async function showModel(sampler) {
  const { manifest, alphabet, latentSize } = sampler;
  const source = manifest.training?.source ?? manifest.model_id;
  const longest = `${manifest.length - (manifest.mode === "lines")} ${alphabet.rules.tokens}`;
  const verdict = await sampler.verify().then(
    () => "same texts as where it was made",
    (error) => error.message,
  );
  element("model").textContent =
    `trained on ${source}: ${latentSize} latent numbers, ${alphabet.texts.length} symbols, at most ${longest}; ${verdict}`;
}

function showProblem(error) {
  if (error && !(error instanceof KvaeError)) console.error(error);
  element("problem").textContent = error ? error.message : "";
  element("problem").hidden = !error;
}

/* --- the parts of the page that depend on the bundle --- */

function addSlider(direction) {
  const slider = Object.assign(document.createElement("input"), { type: "range", min: -RANGE, max: RANGE, step: 0.05 });
  const shown = document.createElement("output");
  const label = document.createElement("label");
  label.className = "slider";
  label.append(direction.name, slider, shown);
  element("sliders").append(label);
  state.directions.push({ ...direction, slider, shown });
  const place = state.directions.length - 1;
  slider.addEventListener(
    "input",
    attempt(() => {
      moveAlong(state.directions[place], Number(slider.value));
      return show();
    }),
  );
}

function addAttributes(attributes) {
  element("attributes").hidden = !attributes.length;
  element("attribute").append(new Option("any", ""), ...attributes.map((value) => new Option(value)));
}

/** Coalesces calls: while `task` runs, all further calls together cause one more run. */
function latest(task) {
  let running = false;
  let again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) {
        again = false;
        await task();
      }
    } finally {
      running = false;
    }
  };
}

let underWay = 0;

/** Wraps a listener: shows its error, and marks the page as busy while it runs. */
function attempt(task) {
  return async (event) => {
    if (event?.type === "submit") event.preventDefault();
    showBusy((underWay += 1));
    try {
      await task();
      showProblem();
    } catch (error) {
      showProblem(error);
    } finally {
      showBusy((underWay -= 1));
    }
  };
}

const showBusy = (tasks) => element("page").setAttribute("aria-busy", String(tasks > 0));

async function open() {
  const address = new URLSearchParams(location.search).get("bundle") ?? "../bundle/";
  state.sampler = await Sampler.load(address);
  await showModel(state.sampler);
  addAttributes(state.sampler.attributes);
  element("space").hidden = element("from-text").hidden = state.sampler.manifest.latent.kind === "none";
  await fromSeed();
  if (!element("space").hidden) (await directionsOf(state.sampler)).forEach(addSlider);
  await show();
  element("controls").disabled = false;
}

const LISTENERS = [
  ["seed", "input", fromSeed],
  ["attribute", "input", fromSeed],
  ["from-seed", "submit", fromSeed],
  ["random", "click", randomSeed],
  ["from-text", "submit", fromText],
  ["temperature", "input", show],
  ["towards", "submit", setGoal],
  ["way", "input", () => (goTheWay(), show())],
];
for (const [id, event, task] of LISTENERS) element(id).addEventListener(event, attempt(task));
await attempt(open)();
