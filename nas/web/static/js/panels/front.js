// The front among the trials, in the plane of any two metrics.

import { address, get } from "../api.js";
import { axis, Chart, colour, errorBars, grid, lines, spansMuch, tooltip } from "../charts.js";
import { button, choose, make } from "../dom.js";
import { fetchFile } from "../files.js";
import { Panel } from "../panel.js";
import { axisTitle, bestOf, metricNames, metricOf, onStep, valueOf } from "../plane.js";
import * as state from "../state.js";
import { count, human, plural, spread } from "../text.js";

const MOST = 4000;

export function frontPanel(model, server) {
  const chart = new Chart((data) => option(model, data), { tall: "tall" });
  const said = make("p", { class: "note", id: "front-said" });
  const left = make("div");
  const taking = files(model, server);
  const load = async (signal) => {
    const { x, y, colour: third } = model.axes;
    const front = await model.loadFront(signal);
    const points = await get(["studies", model.name, "points"], { x, y, colour: third, where: model.where, most: MOST }, signal);
    return { front, points, x, y, third };
  };
  const panel = new Panel("Front", load, (data, body) => {
    const members = data.front.trials.filter((row) => placed(row, data));
    if (!members.length && !data.points.numbers.length) {
      return model.where ? "No trial satisfies the filter." : "No trial has been measured yet.";
    }
    taking.update();
    left.replaceChildren(...data.front.left_out.map((text) => make("p", { class: "note", text })));
    said.textContent = caption(data, members.length);
    if (!chart.root.isConnected) body.replaceChildren(chart.root, said, left, taking.root);
    panel.body.hidden = false;
    chart.show(data, `${said.textContent} ${data.y} over ${data.x}. The table beside it has the same trials.`);
    return null;
  }, { wide: "seven" });
  controls(model, panel);
  brushing(model, panel, chart);
  chart.on("click", (at) => at.data?.trial !== undefined && state.go(state.url({ trial: at.data.trial })));
  model.on("axes", () => { tools(model, panel); panel.reload(); });
  model.on("where", () => panel.reload());
  model.on("here", (row) => chart.chart?.setOption({ series: [{ id: "here", data: row ? [point(row, panel.last)] : [] }] }));
  const closed = panel.close.bind(panel);
  panel.close = () => { closed(); chart.close(); taking.close(); };
  return panel;
}

function caption({ front, points }, members) {
  const shown = points.sampled < points.total
    ? `${count(points.sampled)} of ${count(points.total)} trials shown, evenly by number; the front is exact.`
    : `${plural(points.total, "trial")} shown.`;
  const missing = front.trials.length - members;
  const without = missing ? ` ${plural(missing, "member")} without these metrics not drawn.` : "";
  return `${count(front.trials.length)} on the front. ${shown}${without}`;
}

const placed = (row, { x, y }) => [x, y].every((name) => Number.isFinite(valueOf(row, name)));
const point = (row, { x, y }) => ({ value: [valueOf(row, x), valueOf(row, y)], trial: row.number });

// The front as a file: a table, or all of its networks as one model.
function files(model, server) {
  const place = make("div", { "aria-live": "polite" });
  let open = null;
  const links = ["csv", "parquet"].map((format) => make("a", { class: "quiet", download: true, "data-format": format, text: format }));
  const whole = button("one model of the whole front", () => {
    open?.close();
    open = fetchFile(model.name, { trial: null, format: "elastic" }, place);
  }, { class: "quiet", disabled: server.read_only, title: "For nas.ElasticModel.load" });
  const update = () => links.forEach((link) => link.setAttribute("href",
    address(["studies", model.name, "front"], { where: model.where, objectives: model.by, format: link.dataset.format })));
  const root = make("div", {}, make("p", { class: "chips small" }, "Download ", ...links, whole), place);
  return { root, update, close: () => open?.close() };
}

// -- controls

function controls(model, panel) {
  tools(model, panel);
  model.on("study", () => {
    const names = metricNames(model.study).join();
    if (names !== panel.names) tools(model, panel);
  });
}

function tools(model, panel) {
  const { x, y, colour: third } = model.axes;
  const names = metricNames(model.study);
  panel.names = names.join();
  const axes = [...names, ["number", "trial number"]];
  panel.tools.replaceChildren(
    choose("x", axes, x, (name) => model.setAxes({ x: name }), { id: "axis-x" }),
    choose("y", axes, y, (name) => model.setAxes({ y: name }), { id: "axis-y" }),
    choose("colour", [["", "by time"], ...names], third ?? "", (name) => model.setAxes({ colour: name }), { id: "axis-colour" }),
    choose("front of", fronts(model, x, y), model.by ?? "", (by) => model.setBy(by), { id: "axis-front" }),
  );
}

// Objectives that a front can be of: the study's, or the two axes with either direction.
function fronts(model, x, y) {
  const found = [["", "the objectives"]];
  const free = [x, y].filter((name) => name !== "number");
  if (free.length === 2 && x !== y) {
    const goals = free.map((name) => (metricOf(model.study, name).goal ? [metricOf(model.study, name).goal] : ["min", "max"]));
    for (const a of goals[0]) for (const b of goals[1]) found.push([`${a} ${x}, ${b} ${y}`, `${a} ${x}, ${b} ${y}`]);
  }
  if (model.by && !found.some(([value]) => value === model.by)) found.push([model.by, model.by]);
  return found;
}

// -- brushing

function brushing(model, panel, chart) {
  const toggle = button("Select area", () => set(toggle.getAttribute("aria-pressed") !== "true"), {
    id: "select-area", class: "quiet", title: "Drag over the chart: the table shows what lies within",
  });
  const set = (on) => {
    toggle.setAttribute("aria-pressed", String(on));
    cursor(chart, on);
  };
  const first = !matchMedia("(pointer: coarse)").matches;
  toggle.setAttribute("aria-pressed", String(first));
  panel.root.querySelector(".head h2").after(toggle);
  chart.drawn = () => {
    panel.last = chart.data;
    cursor(chart, toggle.getAttribute("aria-pressed") === "true");
    outline(model, chart);
  };
  chart.on("brushEnd", (event) => {
    const { x, y } = chart.data;
    const ranges = new Map(model.brushed);
    const [area] = event.areas;
    for (const [at, name] of [x, y].entries()) {
      if (area) ranges.set(name, area.coordRange[at].map((value, end) => outward(value, end)));
      else ranges.delete(name);
    }
    if (area || model.brushed.size) model.brush(ranges);
  });
  model.on("brush", () => chart.chart && outline(model, chart));
}

function cursor(chart, on) {
  chart.chart?.dispatchAction({
    type: "takeGlobalCursor", key: "brush", brushOption: on ? { brushType: "rect", brushMode: "single" } : { brushType: false },
  });
}

// Draw what is brushed, also where it came from a link.
function outline(model, chart) {
  const { x, y } = chart.data;
  const range = [x, y].map((name) => model.brushed.get(name));
  const whole = chart.chart.getModel().getComponent("xAxis").axis.scale.getExtent();
  const tall = chart.chart.getModel().getComponent("yAxis").axis.scale.getExtent();
  const areas = range.some(Boolean)
    ? [{ brushType: "rect", xAxisIndex: 0, yAxisIndex: 0, coordRange: [range[0] ?? whole, range[1] ?? tall] }] : [];
  chart.chart.dispatchAction({ type: "brush", areas });
}

// A bound with four digits, beyond the one that was drawn.
function outward(value, end) {
  if (!value) return 0;
  const step = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return Number(((end ? Math.ceil : Math.floor)(value / step) * step).toPrecision(5));
}

// -- the chart

function option(model, { front, points, x, y, third }) {
  const objectives = front.objectives;
  const across = objectives.find((one) => one.name === x) ?? metricOf(model.study, x);
  const up = objectives.find((one) => one.name === y) ?? metricOf(model.study, y);
  const members = front.trials.filter((row) => placed(row, { x, y }));
  const on = new Set(members.map((row) => row.number));
  const dots = points.numbers.map((number, at) => ({
    value: [points.xs[at], points.ys[at], number, points.colours?.[at] ?? null], trial: number, state: points.states[at],
  })).filter((one) => !on.has(one.trial) && one.value[0] !== null && one.value[1] !== null);
  const inBoth = objectives.some((one) => one.name === x) && objectives.some((one) => one.name === y) && x !== y;
  const noisy = (row) => row.noisy.includes(x) || row.noisy.includes(y);
  const member = (row) => ({ value: [valueOf(row, x), valueOf(row, y), row.number, third ? valueOf(row, third) : null],
    trial: row.number, row });
  const xs = [...dots.map((one) => one.value[0]), ...members.map((row) => valueOf(row, x))];
  const ys = [...dots.map((one) => one.value[1]), ...members.map((row) => valueOf(row, y))];
  const red = colour("front");
  const [best] = bestOf(members, model.study.objectives);
  const drawn = [
    { name: "infeasible", type: "scatter", symbolSize: 5, itemStyle: { color: colour("infeasible") },
      data: dots.filter((one) => one.state === "INFEASIBLE") },
    { name: third ? "dominated" : dominatedName(), type: "scatter", symbolSize: 5, itemStyle: { opacity: 0.85 },
      data: dots.filter((one) => one.state !== "INFEASIBLE") },
    { name: "front", type: "scatter", symbolSize: 10, z: 4, itemStyle: { color: red, borderColor: red, borderWidth: third ? 1.5 : 0 },
      label: numbers(), labelLayout: { hideOverlap: true }, data: members.filter((row) => !noisy(row)).map(member) },
    { name: "front, noisy", type: "scatter", symbolSize: 9, z: 4, label: numbers(), labelLayout: { hideOverlap: true },
      itemStyle: { color: colour("card"), borderColor: red, borderWidth: 2 }, data: members.filter(noisy).map(member) },
    { type: "line", step: across.goal === "max" ? "start" : "end", symbol: "none", silent: true, z: 3,
      lineStyle: { color: red, width: 1.2, opacity: 0.6 }, data: inBoth ? onStep(members, across, up).map(member) : [] },
    { ...errorBars(red), data: members.filter((row) => row.spread[x] || row.spread[y]).map((row) => [
      valueOf(row, x), valueOf(row, y), row.spread[x] ?? 0, row.spread[y] ?? 0]) },
    { id: "best", name: "best within the budget", type: "scatter", symbolSize: 18, silent: true, z: 3,
      itemStyle: { color: "transparent", borderColor: colour("text"), borderWidth: 1.5 }, data: best ? [member(best)] : [] },
    { id: "here", type: "scatter", symbolSize: 22, silent: true, z: 5,
      itemStyle: { color: "transparent", borderColor: colour("accent"), borderWidth: 3 }, data: [] },
  ];
  return {
    grid: grid({ top: 62, bottom: 34 }),
    legend: { top: 0, left: 0, type: "scroll", itemHeight: 9, itemWidth: 14, textStyle: { color: colour("muted"), fontSize: 11 },
      inactiveColor: colour("line"), data: drawn.filter((one) => one.name && one.data.length).map((one) => one.name) },
    xAxis: axis(axisTitle(across, "x"), xs, { across: true, logarithmic: spansMuch(xs) && x !== "number" }),
    yAxis: axis(axisTitle(up, "y"), ys, { logarithmic: up.goal !== "max" && spansMuch(ys) && y !== "number" }),
    tooltip: tooltip({ formatter: (at) => tip(at, x, y, third) }),
    visualMap: colours(third, dots, members, model.study.total),
    toolbox: { show: false },
    brush: { xAxisIndex: 0, yAxisIndex: 0, brushMode: "single", transformable: true, outOfBrush: { colorAlpha: 0.35 },
      brushStyle: { color: colour("brush"), borderColor: colour("accent"), borderWidth: 1 } },
    series: drawn,
  };
}

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const dominatedName = () => `dominated, ${dark() ? "brighter" : "darker"} when later`;

function numbers() {
  return { show: true, position: "bottom", align: "left", offset: [2, 0], color: colour("muted"), fontSize: 10,
    formatter: (at) => String(at.data.trial) };
}

function colours(third, dots, members, total) {
  if (!third) {
    return [{ show: false, type: "continuous", dimension: 2, seriesIndex: [1], min: 0, max: Math.max(total, 1),
      inRange: { color: [colour("early"), colour("late")] } }];
  }
  const values = [...dots.map((one) => one.value[3]), ...members.map((row) => valueOf(row, third))].filter(Number.isFinite);
  const min = values.reduce((a, b) => Math.min(a, b), Infinity), max = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return [{
    type: "continuous", dimension: 3, seriesIndex: [1, 2], min: values.length ? min : 0, max: values.length ? max : 1,
    orient: "horizontal", top: 20, right: 8, itemWidth: 10, itemHeight: 110, calculable: false, text: [human(max), `${third} ${human(min)}`],
    textStyle: { color: colour("muted"), fontSize: 11 },
    inRange: { color: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"] }, outOfRange: { color: colour("infeasible") },
  }];
}

function tip(at, x, y, third) {
  const { trial, row, state: ended } = at.data;
  const values = [x, y, third].filter((name) => name && name !== "number");
  const told = (name, place) => (row ? spread(valueOf(row, name), row.spread[name]) : human(at.value[place]));
  const measured = values.map((name) => `${name}  ${told(name, name === x ? 0 : name === y ? 1 : 3)}`);
  const chosen = row ? Object.entries(row.choices).slice(0, 8).map(([name, value]) => `${name} = ${value}`) : [];
  return lines(`trial ${trial}${row ? ", on the front" : ended === "INFEASIBLE" ? ", infeasible" : ""}`, ...measured, ...chosen);
}
