// Decisions and metrics of trials as parallel coordinates; a range of a metric's axis narrows the table, too.

import { get } from "../api.js";
import { Chart, colour, spansMuch } from "../charts.js";
import { make } from "../dom.js";
import { Panel } from "../panel.js";
import { count, human, plural, shown } from "../text.js";

export function parallelPanel(model) {
  const logarithmic = new Set(model.study.decisions.filter((one) => one.scale === "log").map((one) => one.name));
  const chart = new Chart((data) => option(data, logarithmic), { tall: "tall" });
  const place = make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parallel coordinates" },
    chart.root,
  );
  const load = (signal) => get(["studies", model.name, "parallel"], { where: model.where }, signal);
  const panel = new Panel(
    "Decisions and metrics",
    load,
    (data, body) => {
      if (!data.numbers.length) return "No trial has completed yet.";
      if (!chart.root.isConnected) body.append(place, make("p", { class: "note" }));
      const all =
        data.sampled < data.total
          ? `${count(data.sampled)} of ${count(data.total)} trials shown, evenly by number`
          : `${plural(data.total, "trial")} shown`;
      body.querySelector("p").textContent =
        `${all}; the front in red. Drag along the axis of a metric to narrow the table.`;
      body.hidden = false;
      chart.root.style.minWidth = `${Math.max(300, 74 * data.axes.length)}px`;
      chart.show(
        data,
        `Parallel coordinates of ${data.axes.length} decisions and metrics of ${count(data.numbers.length)} trials`,
      );
      return null;
    },
    { lazy: true, wide: "all" },
  );
  chart.on("axisareaselected", () => !chart.telling && select(model, chart));
  chart.drawn = () => mark(model, chart);
  panel.chart = chart;
  model.on("where", () => panel.reload());
  model.on("brush", () => chart.chart && mark(model, chart));
  return panel;
}

// What is selected along the axes of metrics becomes ranges.
function select(model, chart) {
  const ranges = new Map(model.brushed);
  for (const [at, one] of metrics(chart)) {
    const [area] = chart.chart.getModel().getComponent("parallelAxis", at).activeIntervals;
    if (area) {
      const ends = [...area].sort((a, b) => a - b);
      ranges.set(
        one.name,
        ends.map((value) => Number(value.toPrecision(6))),
      );
    } else ranges.delete(one.name);
  }
  model.brush(ranges);
}

// Ranges are shown along the axes, wherever they were selected.
function mark(model, chart) {
  chart.telling = true;
  for (const [at, one] of metrics(chart)) {
    const range = model.brushed.get(one.name);
    chart.chart.dispatchAction({ type: "axisAreaSelect", parallelAxisId: String(at), intervals: range ? [range] : [] });
  }
  chart.telling = false;
}

const metrics = (chart) => [...chart.data.axes.entries()].filter(([, one]) => one.kind === "metric");

function option({ axes, rows, front }, logarithmic) {
  const named = axes.map((one, at) => categories(one.candidates ?? listed(rows, at), rows, at));
  const values = rows.map((row) => row.map((value, at) => (named[at] ? named[at].place(value) : value)));
  const linesOf = (wanted) => values.filter((_, at) => Boolean(front[at]) === wanted).map((value) => ({ value }));
  return {
    parallel: {
      left: 40,
      right: 60,
      top: 46,
      bottom: 22,
      parallelAxisDefault: {
        nameTextStyle: { color: colour("text"), fontSize: 11 },
        nameTruncate: { maxWidth: 90 },
        nameRotate: axes.length > 10 ? 20 : 0,
        axisLine: { lineStyle: { color: colour("line") } },
        axisTick: { show: false },
        axisLabel: {
          color: colour("text"),
          fontSize: 10,
          formatter: human,
          textBorderColor: colour("card"),
          textBorderWidth: 3,
        },
        areaSelectStyle: { color: colour("accent"), opacity: 0.25, width: 16 },
      },
    },
    parallelAxis: axes.map((one, dim) => ({
      id: String(dim),
      dim,
      name: one.name,
      z: 10,
      ...scale(
        named[dim],
        logarithmic.has(one.name) || (one.kind === "metric" && spansMuch(rows.map((row) => row[dim]))),
      ),
    })),
    series: [
      {
        type: "parallel",
        silent: true,
        progressive: 500,
        lineStyle: { color: colour("late"), opacity: rows.length > 300 ? 0.08 : 0.25, width: 1 },
        inactiveOpacity: 0.01,
        activeOpacity: 0.35,
        data: linesOf(false),
      },
      {
        type: "parallel",
        silent: true,
        z: 4,
        lineStyle: { color: colour("front"), opacity: 0.7, width: 1.5 },
        inactiveOpacity: 0.04,
        activeOpacity: 0.9,
        data: linesOf(true),
      },
    ],
  };
}

function scale(named, logarithmic) {
  if (named)
    return {
      type: "category",
      data: named.labels,
      axisLabel: { formatter: (text) => (text.length > 14 ? `${text.slice(0, 13)}…` : text) },
    };
  return { type: logarithmic ? "log" : "value", scale: true };
}

// Values of an axis that has no candidates but is no axis of numbers, as of permutations; else null.
function listed(rows, at) {
  const found = rows.map((row) => row[at]).filter((value) => value !== null && value !== undefined);
  if (found.every((value) => typeof value === "number")) return null;
  const texts = new Map(found.map((value) => [shown(value), value]));
  return [...texts.keys()].sort().map((text) => texts.get(text));
}

// The candidates of a decision as labels, and "–" where it is inactive; null for an axis of numbers.
function categories(candidates, rows, at) {
  if (!candidates) return null;
  const labels = candidates.map(shown);
  const inactive = rows.some((row) => row[at] === undefined || (row[at] === null && !candidates.includes(null)));
  if (inactive) labels.push("–");
  const place = (value) => {
    const found = labels.indexOf(shown(value ?? null));
    return found >= 0 && value !== undefined ? found : labels.length - 1;
  };
  return { labels, place };
}
