// Charts of ECharts, drawn again when their place changes size or the colours change. Tooltips are text on the
// canvas, never HTML.

import { make } from "./dom.js";
import { human } from "./text.js";

const kept = new Set();
const loading = document.getElementById("charts-library");
loading.addEventListener("load", () => kept.forEach((chart) => chart.redraw())); // the rest of the page does not wait for it
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => kept.forEach((chart) => chart.redraw()));

// A colour of the style sheet.
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export const series = () => [1, 2, 3, 4, 5, 6, 7, 8].map((at) => colour(`series-${at}`));

export class Chart {
  // `option(data)` is what ECharts draws of the data.
  constructor(option, { tall = "" } = {}) {
    this.option = option;
    this.root = make("div", { class: `chart ${tall}`.trim(), role: "img" });
    this.listeners = [];
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.root);
    this.root.addEventListener("pointerdown", () => this.hold());
    kept.add(this);
  }

  show(data, label) {
    this.data = data;
    this.root.setAttribute("aria-label", label);
    this.redraw();
  }

  // What is dragged is not drawn anew under the pointer.
  hold() {
    this.held = true;
    const release = () => {
      this.held = false;
      if (this.waiting) this.redraw();
    };
    for (const end of ["pointerup", "pointercancel"]) {
      window.addEventListener(end, () => setTimeout(release), { once: true });
    }
  }

  redraw() {
    this.waiting = this.held;
    if (this.held) return;
    if (this.data === undefined || !this.root.isConnected || !this.root.clientWidth || !window.echarts) return;
    if (!this.chart) {
      this.chart = window.echarts.init(this.root, null, { renderer: "canvas" });
      for (const [name, listener] of this.listeners) this.chart.on(name, listener);
    }
    this.chart.setOption({ ...base(), ...this.option(this.data) }, { notMerge: true });
    this.drawn?.();
  }

  fit() {
    if (this.chart) this.chart.resize();
    else this.redraw();
  }

  on(name, listener) {
    this.listeners.push([name, listener]);
    this.chart?.on(name, listener);
  }

  close() {
    kept.delete(this);
    this.sizes.disconnect();
    this.chart?.dispose();
  }
}

function base() {
  return {
    animation: false,
    backgroundColor: "transparent",
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: colour("text") },
    tooltip: tooltip(),
  };
}

export function tooltip(more = {}) {
  return {
    renderMode: "richText",
    confine: true,
    backgroundColor: colour("raised"),
    borderColor: colour("line"),
    textStyle: { color: colour("text"), fontSize: 12 },
    ...more,
  };
}

// Text of a tooltip: braces would be ECharts' markup of styles.
export const lines = (...parts) => parts.filter(Boolean).join("\n").replaceAll("{", "(").replaceAll("}", ")");

export const grid = (more = {}) => ({ left: 8, right: 18, top: 34, bottom: 8, containLabel: true, ...more });

// An axis of numbers; logarithmic where asked, with ticks at 1, 2 and 5.
export function axis(name, values, { logarithmic = false, across = false, more = {} } = {}) {
  const found = values.filter((value) => Number.isFinite(value));
  const low = found.reduce((a, b) => Math.min(a, b), Infinity),
    high = found.reduce((a, b) => Math.max(a, b), -Infinity);
  const scale = logarithmic && low > 0 ? logScale(low, high) : { type: "value", scale: true };
  return {
    name,
    nameLocation: across ? "middle" : "end",
    nameGap: across ? 30 : 14,
    nameTextStyle: { color: colour("muted"), align: across ? "center" : "left" },
    axisLine: { show: across, lineStyle: { color: colour("line") } },
    axisTick: { show: false },
    splitLine: { lineStyle: { color: colour("grid") } },
    ...scale,
    axisLabel: { color: colour("muted"), hideOverlap: true, formatter: human, ...scale.axisLabel },
    ...more,
  };
}

function logScale(low, high) {
  const room = (high / low) ** 0.04;
  const min = low / room,
    max = high * room;
  return { type: "log", min, max, axisLabel: { customValues: ticks(min, max) } };
}

function ticks(min, max) {
  const found = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++) {
    for (const digit of [1, 2, 5]) found.push(Number(`${digit}e${power}`));
  }
  const inside = found.filter((tick) => tick >= min && tick <= max);
  return inside.length > 8 ? inside.filter((tick) => /^1e/.test(tick.toExponential())) : inside;
}

// Whether a cost is drawn on a logarithmic axis, as `nas front -o front.png` does.
export function spansMuch(values) {
  const found = values.filter((value) => Number.isFinite(value));
  if (!found.length) return false;
  const low = found.reduce((a, b) => Math.min(a, b)),
    high = found.reduce((a, b) => Math.max(a, b));
  return low > 0 && high / low > 10;
}

// A value's spread as a line with caps, in series of [x, y, half of x, half of y].
export function errorBars(line, { horizontal = true, vertical = true } = {}) {
  return {
    type: "custom",
    silent: true,
    z: 2,
    zlevel: 0,
    renderItem: (_, api) => {
      const [x, y, dx, dy] = [0, 1, 2, 3].map((at) => api.value(at));
      const parts = [];
      if (horizontal && dx) parts.push(...bar(api.coord([low(x, dx), y]), api.coord([x + dx, y]), [0, 3]));
      if (vertical && dy) parts.push(...bar(api.coord([x, low(y, dy)]), api.coord([x, y + dy]), [3, 0]));
      return {
        type: "group",
        children: parts.map((shape) => ({ type: "line", shape, style: { stroke: line, lineWidth: 1 } })),
      };
    },
    encode: { x: 0, y: 1 },
  };
}

const low = (value, half) => (value > 0 ? Math.max(value - half, value / 10) : value - half);

function bar([x1, y1], [x2, y2], [capX, capY]) {
  return [
    { x1, y1, x2, y2 },
    { x1: x1 - capX, y1: y1 - capY, x2: x1 + capX, y2: y1 + capY },
    { x1: x2 - capX, y1: y2 - capY, x2: x2 + capX, y2: y2 + capY },
  ];
}
