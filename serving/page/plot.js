/** The plot of the map, drawn by uPlot: points with colours, the present place and a way; it tells of presses and drags. */

/* global uPlot */

import { byId, element, shownText } from "./tools.js";

const RAMP = ["#4575b4", "#3fa0a8", "#7fb461", "#e0a526", "#d9572b"];
const LABEL_COLOURS = ["#2f7ebc", "#e07b1f", "#3a9e54", "#c9403f", "#8a63b8", "#8c6a56", "#d765a8", "#8a9099"];
const NO_LABEL_COLOUR = "#b5bac0";
const NEAR_PIXELS = 14;
const DRAG_PIXELS = 8;
const MARGIN = 1.12;
const RADIUS = 3.5;

const mixed = (one, other, share) =>
  `#${[1, 3, 5]
    .map((at) => {
      const [a, b] = [one, other].map((colour) => parseInt(colour.slice(at, at + 2), 16));
      return Math.round(a + share * (b - a)).toString(16).padStart(2, "0");
    })
    .join("")}`;

/** The colour of a share from 0 to 1 on the ramp. */
function rampColour(share) {
  const place = Math.min(share, 0.9999) * (RAMP.length - 1);
  return mixed(RAMP[Math.floor(place)], RAMP[Math.floor(place) + 1], place % 1);
}

const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Plot {
  /** A plot of `map` that calls `on.press(place)` and `on.drag(start, end)`; a place is {x, y, point}, the point or -1. */
  constructor(map, labels, on) {
    Object.assign(this, { points: map.points, shares: map.explained_variance, labels, on });
    this.container = byId("map");
    this.present = null;
    this.way = [];
    this.hover = element("div", { id: "hover", hidden: true });
    this.colourBy(map.points.label ? "label" : "length");
    this.build();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.container);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
  }

  /* --- colours ---------------------------------------------------------------------------------------------------- */

  colourBy(what) {
    const { tokens, label } = this.points;
    const [low, high] = [Math.min(...tokens), Math.max(...tokens)];
    const ofLabel = (name) => (name ? LABEL_COLOURS[this.labels.indexOf(name) % LABEL_COLOURS.length] : NO_LABEL_COLOUR);
    this.colours =
      what === "label" ? label.map(ofLabel) : tokens.map((count) => rampColour((count - low) / Math.max(1, high - low)));
    const dot = (name) => {
      const made = element("span", { className: "dot" });
      made.style.background = ofLabel(name);
      return element("span", {}, made, name);
    };
    const ramp = element("span", { className: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
    const keys = what === "label" ? this.labels.slice(0, LABEL_COLOURS.length).map(dot) : [element("span", {}, `${low}`, ramp, `${high} tokens`)];
    byId("legend").replaceChildren(...(label ? [this.colourChoice(what)] : ["Colour: length"]), ...keys);
    this.chart?.redraw();
  }

  colourChoice(what) {
    const options = ["label", "length"].map((value) => element("option", { value, selected: value === what }, value));
    const select = element("select", { onchange: () => this.colourBy(select.value) }, ...options);
    return element("label", {}, "Colour", select);
  }

  /* --- drawing ---------------------------------------------------------------------------------------------------- */

  size() {
    const width = Math.max(200, Math.floor(this.container.clientWidth));
    return { width, height: Math.max(300, Math.min(500, Math.round(0.85 * width))) };
  }

  /** The ranges of both axes, with one unit as long on one as on the other. */
  ranges() {
    const { width, height } = this.size();
    const { x, y } = this.points;
    const reach = (values) => MARGIN * Math.max(1e-6, ...values.map(Math.abs));
    const unit = Math.max((2 * reach(x)) / width, (2 * reach(y)) / height);
    return { x: (unit * width) / 2, y: (unit * height) / 2 };
  }

  build() {
    this.chart?.destroy();
    const axis = (name, share) => ({
      label: `${name} component · ${Math.round(100 * share)} %`,
      labelSize: 18,
      labelFont: "12px system-ui",
      font: "11px system-ui",
      size: 26,
      stroke: cssColour("--quiet"),
      grid: { stroke: cssColour("--grid"), width: 1 },
      ticks: { show: false },
    });
    const options = {
      ...this.size(),
      mode: 2,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { x: false, y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { time: false, range: () => [-this.ranges().x, this.ranges().x] }, y: { range: () => [-this.ranges().y, this.ranges().y] } },
      axes: [axis("First", this.shares[0]), axis("Second", this.shares[1])],
      series: [{}, { paths: (chart) => this.draw(chart) }],
    };
    this.chart = new uPlot(options, [null, [this.points.x, this.points.y]], this.container);
    this.chart.over.append(this.hover);
    this.drawnWidth = this.size().width;
  }

  resize() {
    const size = this.size();
    if (size.width === this.drawnWidth) return;
    this.drawnWidth = size.width;
    this.chart.setSize(size);
  }

  draw(chart) {
    const { ctx } = chart;
    const ratio = uPlot.pxRatio;
    const at = ({ x, y }) => [chart.valToPos(x, "x", true), chart.valToPos(y, "y", true)];
    const disc = (place, radius) => {
      ctx.beginPath();
      ctx.arc(...at(place), radius * ratio, 0, 2 * Math.PI);
    };
    ctx.save();
    ctx.globalAlpha = 0.75;
    this.points.x.forEach((x, i) => {
      disc({ x, y: this.points.y[i] }, RADIUS);
      ctx.fillStyle = this.colours[i];
      ctx.fill();
    });
    ctx.globalAlpha = 1;
    ctx.strokeStyle = ctx.fillStyle = cssColour("--ink");
    ctx.lineWidth = 2 * ratio;
    if (this.way.length > 1) {
      ctx.beginPath();
      this.way.forEach((place) => ctx.lineTo(...at(place)));
      ctx.stroke();
      for (const place of this.way) {
        disc(place, 2.5);
        ctx.fill();
      }
    }
    if (this.present) {
      disc(this.present, 7);
      ctx.strokeStyle = cssColour("--card");
      ctx.lineWidth = 5 * ratio;
      ctx.stroke();
      disc(this.present, 7);
      ctx.strokeStyle = cssColour("--ink");
      ctx.lineWidth = 2.5 * ratio;
      ctx.stroke();
    }
    ctx.restore();
    return null;
  }

  show({ present = this.present, way = this.way }) {
    Object.assign(this, { present, way });
    this.chart.redraw(false);
  }

  /* --- the pointer -------------------------------------------------------------------------------------------------- */

  /** The place under the pointer; near a point it is the point. */
  placeOf(event) {
    const box = this.chart.over.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let [point, nearest] = [-1, NEAR_PIXELS ** 2];
    this.points.x.forEach((x, i) => {
      const distance = (this.chart.valToPos(x, "x") - left) ** 2 + (this.chart.valToPos(this.points.y[i], "y") - top) ** 2;
      if (distance < nearest) [point, nearest] = [i, distance];
    });
    if (point >= 0) return { x: this.points.x[point], y: this.points.y[point], point };
    return { x: this.chart.posToVal(left, "x"), y: this.chart.posToVal(top, "y"), point };
  }

  listen() {
    let start = null;
    let pressed = null;
    const moved = (event) => Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > DRAG_PIXELS;
    const stop = () => {
      start = pressed = null;
    };
    this.container.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.chart.over.contains(event.target)) return;
      pressed = event;
      start = this.placeOf(event);
      this.container.setPointerCapture(event.pointerId);
    });
    this.container.addEventListener("pointermove", (event) => {
      this.showHover(event);
      if (start && moved(event)) this.show({ way: [start, this.placeOf(event)] });
    });
    this.container.addEventListener("pointerup", (event) => {
      if (start && moved(event)) this.on.drag(start, this.placeOf(event));
      else if (start) this.on.press(start);
      stop();
    });
    this.container.addEventListener("pointercancel", () => {
      stop();
      this.show({ way: [] });
    });
    this.container.addEventListener("pointerleave", () => (this.hover.hidden = true));
  }

  showHover(event) {
    const { point, x, y } = this.placeOf(event);
    this.hover.hidden = point < 0;
    if (point < 0) return;
    const { text, label, tokens } = this.points;
    const told = [label?.[point], `${tokens[point]} tokens`].filter(Boolean).join(", ");
    this.hover.replaceChildren(element("div", { className: "text" }, shownText(text[point])), element("div", { className: "quiet" }, told));
    const [left, top] = [this.chart.valToPos(x, "x"), this.chart.valToPos(y, "y")];
    const { clientWidth, clientHeight } = this.chart.over;
    this.hover.style.left = `${Math.max(0, Math.min(left + 12, clientWidth - this.hover.offsetWidth))}px`;
    this.hover.style.top = `${top + 14 + this.hover.offsetHeight > clientHeight ? top - 14 - this.hover.offsetHeight : top + 14}px`;
  }
}
