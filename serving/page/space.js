/** The latent space: a place on the map or the sliders give a code, and the model decodes the code. */

import { Plot } from "./plot.js";
import { byId, call, element, newest, showProblem, shownText } from "./tools.js";

const STEPS = 7;
const CUT_CHARACTERS = 200;
const KEY_SHARE = 0.05;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class LatentSpace {
  constructor(info, map) {
    this.map = map;
    this.labels = info.latent.attributes ?? [];
    this.label = this.labels[0];
    this.code = map.mean;
    this.walkFrom = null;
    this.place = { x: 0, y: 0, point: -1 };
    this.asked = {}; // a new object for each place that is asked for, so that late answers are known
    this.plot = new Plot(map, this.labels, {
      press: (place) => (this.walkFrom ? this.walk(this.walkFrom, place) : this.goTo(place)),
      drag: (start, end) => this.walk(start, end),
    });
    const shares = map.explained_variance.reduce((sum, share) => sum + share, 0);
    const { length } = map.points.x;
    byId("space-about").textContent =
      `${length} texts that the model was not trained on, by their codes. Press a point or any place between them and the ` +
      "model decodes the code there. Drag from one place to another to see the texts on the way. " +
      `The plane shows ${Math.round(100 * shares)} % of the variance of the codes.`;
    byId("sliders-about").textContent =
      `The ${map.dimensions.index.length} numbers of the code that say most about a text, with what each says on average in nats.`;
    this.decode = newest(() => this.showText());
    this.makeSliders();
    this.listen();
  }

  /** Start from the first point whose text is short enough to be shown whole. */
  async open() {
    const { x, y, text } = this.map.points;
    const point = Math.max(0, text.findIndex((each) => each && each.length < CUT_CHARACTERS));
    await this.goTo({ x: x[point], y: y[point], point });
  }

  /* --- codes and places --------------------------------------------------------------------------------------------- */

  /** The code of a place of the plane. */
  lifted({ x, y }) {
    const [first, second] = this.map.components;
    return this.map.mean.map((mean, i) => mean + x * first[i] + y * second[i]);
  }

  /** The place of a code on the plane. */
  placeOf(code) {
    const [x, y] = this.map.components.map((component) =>
      component.reduce((sum, weight, i) => sum + weight * (code[i] - this.map.mean[i]), 0),
    );
    return { x, y, point: -1 };
  }

  /** The code that the model reads from the text of a point; elsewhere, and for texts that are cut, that of the plane. */
  async codeAt(place) {
    const text = place.point < 0 ? "" : this.map.points.text[place.point];
    if (!text || text.length >= CUT_CHARACTERS) return this.lifted(place);
    try {
      return await this.codeOf(text);
    } catch {
      return this.lifted(place);
    }
  }

  async codeOf(text) {
    const { codes } = await call("/encode", { texts: [text], unknown: "replace" });
    return codes[0].code.slice(0, this.map.mean.length);
  }

  /** A code as the model takes it: in float32's digits, with the label at its end. */
  whole(code) {
    return [...code.map((value) => Number(value.toPrecision(8))), ...this.labels.map((label) => Number(label === this.label))];
  }

  /* --- going there -------------------------------------------------------------------------------------------------- */

  async goTo(place) {
    const asked = (this.asked = {});
    this.plot.show({ present: place, way: [] });
    byId("way").replaceChildren();
    const label = this.map.points.label?.[place.point]; // empty where it is unknown
    if (label) this.showLabel(label);
    const code = await this.codeAt(place);
    if (asked !== this.asked) return; // another place was pressed meanwhile
    this.setCode(code, place);
    await this.decode();
  }

  async goToText(text, scroll = false) {
    const asked = (this.asked = {});
    if (scroll) byId("space").scrollIntoView({ behavior: "smooth" });
    try {
      const code = await this.codeOf(text);
      if (asked !== this.asked) return;
      const place = this.placeOf(code);
      byId("way").replaceChildren();
      this.plot.show({ present: place, way: [] });
      this.setCode(code, place, `The place of “${text}”. Decoded there:`);
      await this.decode();
    } catch (error) {
      showProblem(byId("here"), error);
    }
  }

  setCode(code, place, told) {
    Object.assign(this, { code, place });
    byId("where").textContent =
      told ?? (place.point >= 0 ? `Held-out text: “${this.map.points.text[place.point]}”. Reconstruction:` : "Decoded here:");
    this.showNearest(place);
    this.showSliders();
  }

  showNearest({ x, y, point }) {
    const near = byId("near");
    near.textContent = "";
    if (point >= 0) return;
    const distances = this.map.points.x.map((each, i) => (each - x) ** 2 + (this.map.points.y[i] - y) ** 2);
    near.textContent = `Nearest held-out text on the map: “${this.map.points.text[distances.indexOf(Math.min(...distances))]}”`;
  }

  async showText() {
    try {
      const { texts } = await call("/decode", { codes: [this.whole(this.code)] });
      byId("here").replaceChildren(shownText(texts[0]));
    } catch (error) {
      showProblem(byId("here"), error);
    }
  }

  /** The texts on the straight line between two places. */
  async walk(start, end) {
    this.endChoice();
    const fractions = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
    const between = (one, other) => (share) => one + share * (other - one);
    const places = fractions.map((share) => ({
      x: between(start.x, end.x)(share),
      y: between(start.y, end.y)(share),
      point: -1,
    }));
    const asked = (this.asked = {});
    this.plot.show({ present: end, way: places });
    const way = byId("way");
    try {
      const [first, last] = await Promise.all([start.code ?? this.codeAt(start), this.codeAt(end)]);
      const codes = fractions.map((share) => first.map((value, i) => between(value, last[i])(share)));
      const { texts } = await call("/decode", { codes: codes.map((code) => this.whole(code)) });
      if (asked !== this.asked) return;
      this.setCode(last, end, "The texts on the way, and at its end:");
      byId("here").replaceChildren(shownText(texts.at(-1)));
      way.replaceChildren(...texts.map((text) => element("li", {}, shownText(text))));
    } catch (error) {
      showProblem(way, error);
    }
  }

  /* --- sliders, label and keys -------------------------------------------------------------------------------------- */

  makeSliders() {
    const { index, kl, low, high } = this.map.dimensions;
    this.sliders = index.map((dimension, i) => {
      const value = element("output");
      const range = element("input", { type: "range", min: low[i], max: high[i], step: (high[i] - low[i]) / 200 || 0.01 });
      range.oninput = () => {
        value.textContent = Number(range.value).toFixed(2);
        const code = [...this.code];
        code[dimension] = Number(range.value);
        const place = this.placeOf(code);
        this.plot.show({ present: place, way: [] });
        byId("way").replaceChildren();
        Object.assign(this, { code, place, asked: {} });
        byId("where").textContent = `Dimension ${dimension + 1} at ${value.textContent}. Decoded here:`;
        this.showNearest(place);
        this.decode();
      };
      byId("sliders").append(element("label", {}, element("span", {}, `Dimension ${dimension + 1}`, element("small", {}, `${kl[i].toFixed(2)} nats`)), value, range));
      return { dimension, range, value };
    });
  }

  showSliders() {
    for (const { dimension, range, value } of this.sliders) {
      range.value = this.code[dimension];
      value.textContent = this.code[dimension].toFixed(2);
    }
  }

  showLabel(label) {
    this.label = label;
    byId("label").querySelector("select").value = label;
  }

  endChoice() {
    this.walkFrom = null;
    byId("walk").setAttribute("aria-pressed", "false");
    byId("walk").textContent = "Walk from here";
  }

  listen() {
    byId("walk").onclick = () => {
      if (this.walkFrom) {
        this.endChoice();
        return;
      }
      this.walkFrom = { ...this.place, code: this.code };
      byId("walk").setAttribute("aria-pressed", "true");
      byId("walk").textContent = "Now press another place";
    };
    byId("map").onkeydown = (event) => {
      const move = KEYS[event.key];
      if (!move) return;
      event.preventDefault();
      const reach = this.plot.ranges();
      const inside = (value, most) => Math.max(-most, Math.min(most, value));
      const x = inside(this.place.x + KEY_SHARE * reach.x * move[0], reach.x);
      const y = inside(this.place.y + KEY_SHARE * reach.y * move[1], reach.y);
      this.goTo({ x, y, point: -1 });
    };
    if (!this.labels.length) return;
    const select = byId("label").querySelector("select");
    select.append(...this.labels.map((value) => element("option", { value }, value)));
    select.onchange = () => {
      this.label = select.value;
      this.decode();
    };
    byId("label").hidden = false;
  }
}
