/** The page of `kvae serve`: texts as soon as it opens, the map of the latent space, and texts of one's own. */

import { LatentSpace } from "./space.js";
import { busy, byId, call, element, events, newest, Problem, send, showProblem, shownText } from "./tools.js";

const DARKEST_NATS = 8;
const ASK_AGAIN_MILLISECONDS = 3000;
const COUNTS = new Set(["n", "seed", "top_k", "min_length", "max_length"]);

const REPLACED = "What it never saw counts as its unknown symbol.";

let info;
let space = null;

/* --- new texts --------------------------------------------------------------------------------------------------- */

/** The filled fields of a form as arguments of a call; an empty field leaves the choice to the server. */
function argumentsOf(form) {
  const found = {};
  for (const field of form.elements) {
    if (!field.name || field.value === "") continue;
    found[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  for (const name of COUNTS) if (name in found) found[name] = Math.trunc(found[name]);
  return found;
}

async function showSamples() {
  const given = argumentsOf(byId("sample"));
  const { temperature, top_k, top_p, ...shared } = given;
  try {
    const [probable, drawn] = await Promise.all([
      hasCodes() ? call("/sample", { ...shared, greedy: true }) : null,
      call("/sample", given),
    ]);
    byId("samples").replaceChildren(pairs(probable?.samples, drawn.samples, temperature));
  } catch (error) {
    showProblem(byId("samples"), error);
  }
}

/** The texts of each code side by side: the most probable one and the sampled one. */
function pairs(probable, drawn, temperature) {
  const head = (words) => element("div", { className: "head" }, words);
  const made = element("div", { className: probable ? "pairs" : "pairs one" });
  made.append(...(probable ? [head("Most probable")] : []), head(`Sampled at temperature ${temperature}`));
  drawn.forEach((sample, row) => {
    if (probable) made.append(element("div", { className: "first" }, textButton(probable[row])));
    made.append(element("div", { className: "second" }, textButton(sample)));
  });
  return made;
}

/** A sampled text; where there is a map, pressing it shows its place there. */
function textButton({ text, attribute, finished }) {
  const shown = shownText(text);
  const button = space && text ? element("button", { type: "button", className: "text", title: "Show on the map" }, shown) : null;
  if (button) button.onclick = () => space.goToText(text, true);
  const made = element("span", {}, button ?? element("span", { className: "text" }, shown));
  if (attribute) made.append(element("small", {}, attribute));
  if (!finished) made.append(element("small", { title: "The model has no room for a longer text" }, "cut"));
  return made;
}

async function watchOne() {
  const { n, ...given } = argumentsOf(byId("sample"));
  const place = byId("watched");
  const button = byId("watch");
  place.replaceChildren();
  place.hidden = false;
  place.classList.remove("done");
  button.disabled = true;
  try {
    // Row 0 of another seed, so that the text is new each time.
    for await (const [name, data] of events(await send("/stream", { ...given, seed: randomSeed() }))) {
      if (name === "problem") throw new Problem(data.detail);
      if (name !== "done") place.append(data.piece);
    }
  } catch (error) {
    showProblem(place, error);
  } finally {
    place.classList.add("done");
    button.disabled = false;
  }
}

const randomSeed = () => Math.floor(Math.random() * 1_000_000);

/* --- own texts --------------------------------------------------------------------------------------------------- */

/** What the model makes of a text: what it reads back, and which of its parts surprise it. */
async function readText() {
  const { text = "" } = argumentsOf(byId("read"));
  const place = byId("reading");
  if (!text) {
    showProblem(place, new Problem("Write a text first."));
    return;
  }
  const asked = { texts: [text], unknown: "replace" };
  const calls = [call("/score", asked), hasCodes() ? call("/reconstruct", asked) : null];
  const [scored, read] = await Promise.allSettled(calls);
  const told = element("dl");
  if (read.value) {
    const { reconstruction, equal } = read.value.reconstructions[0];
    told.append(...row("Read back", element("span", { className: "text" }, shownText(reconstruction)), equal ? " — the same text" : ""));
  }
  if (scored.value) {
    const [score] = scored.value.scores;
    told.append(...row("Surprise", heat(score)));
    const bits = score.bits_per_character.toFixed(2);
    told.append(...row("In numbers", `${bits} bits per character${usual()}; at most ${score.bound.toFixed(1)} nats in all`));
  }
  place.replaceChildren(told);
  for (const { reason } of [scored, read]) {
    if (reason) {
      const problem = element("div");
      showProblem(problem, reason);
      if (!place.textContent.includes(reason.message)) place.append(problem);
    }
  }
  if (read.value) space?.goToText(text);
}

const row = (name, ...values) => [element("dt", {}, name), element("dd", {}, ...values)];

function usual() {
  const bits = info.training?.bits_per_character;
  return typeof bits === "number" ? ` (held-out texts have ${bits.toFixed(2)})` : "";
}

/** The text with darker characters where they surprise, if its tokens are characters. */
function heat({ text, nats }) {
  const symbols = [...text];
  const made = element("span", { className: "text" });
  if (nats.length < symbols.length || nats.length > symbols.length + 1) return text;
  symbols.forEach((symbol, i) => {
    const mark = element("mark", { title: `${nats[i].toFixed(2)} nats` }, symbol);
    mark.style.setProperty("--heat", Math.round(100 * Math.min(1, nats[i] / DARKEST_NATS)));
    made.append(mark);
  });
  return made;
}

async function showWay() {
  const place = byId("interpolation");
  try {
    const ends = { first: "", last: "", ...argumentsOf(byId("interpolate")) };
    const { interpolation } = await call("/interpolate", { ...ends, unknown: "replace" });
    place.replaceChildren(...interpolation.map((text) => element("li", {}, shownText(text))));
  } catch (error) {
    showProblem(place, error);
  }
}

/* --- the page ---------------------------------------------------------------------------------------------------- */

const hasCodes = () => info.latent.kind !== "none";

function introduce() {
  const source = info.training?.source || "its corpus";
  byId("title").textContent = `A model of texts like those of ${source}`;
  document.title = `${source} · kvae`;
  byId("about").textContent = hasCodes()
    ? "Write new texts with it, look for texts in the space of its codes, or let it read a text of yours."
    : "Write new texts with it, or let it read a text of yours.";
  const bound = typeof info.training?.elbo === "number" ? [`${info.training.elbo.toFixed(2)} nats per held-out text`] : [];
  const facts = [`model ${info.model_id}`, ...(hasCodes() ? [`codes of ${info.latent.size} numbers`] : []), ...bound, `kvae ${info.versions?.kvae ?? ""}`];
  byId("version").textContent = facts.map((fact) => ` · ${fact}`).join("");
  byId("new-about").textContent = hasCodes()
    ? "Each line is one random place in the latent space: its most probable text, and a text sampled there."
    : "Each line is a text of its own.";
  byId("own-about").textContent = hasCodes()
    ? "The model encodes a text and decodes the code again. Darker characters surprise it more. " + REPLACED
    : `Darker characters surprise the model more. ${REPLACED}`;
  byId("between").hidden = !hasCodes();
  byId("sample").elements.temperature.value = info.defaults.temperature;
  const { attributes = [] } = info.latent;
  if (attributes.length) offerLabels(attributes);
}

/** The label is one of the three fields of a model with labels; the seed moves to the other settings. */
function offerLabels(attributes) {
  const options = [element("option", { value: "" }, "any"), ...attributes.map((value) => element("option", { value }, value))];
  const label = element("label", {}, "Label", element("select", { name: "attribute" }, ...options));
  byId("third").replaceWith(label);
  const seed = element("input", { name: "seed", type: "number", min: "0", step: "1", value: "0", required: true });
  byId("more").prepend(element("label", {}, "Seed", seed));
}

async function showSpace() {
  if (!info.map) return;
  const map = await call("/map").catch((error) => {
    if (error.status !== 404) console.error(error);
    return null;
  });
  if (!map) return;
  byId("space").hidden = false;
  space = new LatentSpace(info, map);
  const { text } = map.points;
  const { first, last } = byId("interpolate").elements;
  [first.value, last.value] = [text[0], text[text.length - 1]];
  byId("read").elements.text.value = text[Math.floor(text.length / 2)];
  await space.open();
}

function onSubmit(id, work) {
  const form = byId(id);
  const ask = newest(work);
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    ask();
  };
}

async function begin() {
  try {
    info = await call("/info");
  } catch (error) {
    byId("about").textContent = error.message;
    setTimeout(begin, ASK_AGAIN_MILLISECONDS); // the server starts, or has too much to do
    return;
  }
  introduce();
  byId("main").hidden = false;
  onSubmit("read", readText);
  onSubmit("interpolate", showWay);
  const others = newest(showSamples);
  const form = byId("sample");
  let fresh = form.elements.seed.value;
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    // Pressed again with the seed that it has already shown, the button takes another one.
    if (form.elements.seed.value === fresh) form.elements.seed.value = randomSeed();
    fresh = form.elements.seed.value;
    others();
  };
  form.onchange = (changed) => {
    if (changed.target.name === "seed") return;
    if (form.reportValidity()) others();
  };
  byId("watch").onclick = watchOne;
  await showSpace();
  await others();
}

busy(begin());
