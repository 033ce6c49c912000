// The front among the trials, in the plane of any two metrics.

import { address, get } from "../api.js";
import { brushing } from "../brushing.js";
import { Chart } from "../charts.js";
import { button, choose, make } from "../dom.js";
import { fetchFile } from "../files.js";
import { frontChart, placed } from "../front_chart.js";
import { Panel } from "../panel.js";
import { metricNames, metricOf, valueOf } from "../plane.js";
import * as state from "../state.js";
import { count, plural } from "../text.js";

const MOST = 4000;
const NONE = { numbers: [], xs: [], ys: [], colours: null, states: [], total: 0, sampled: 0, coming: true };

// The front is drawn before the other trials are there, where those take a while.
const slow = (points) =>
  Promise.race([points.then(() => false), new Promise((next) => setTimeout(() => next(true), 150))]);

export function frontPanel(model, server) {
  const chart = new Chart((data) => frontChart(model, data), { tall: "tall" });
  const said = make("p", { class: "note", id: "front-said" });
  const left = make("div");
  const taking = files(model, server);
  const load = async (signal) => {
    const { x, y, colour: third } = model.axes;
    const sampled = (where) =>
      get(["studies", model.name, "points"], { x, y, colour: third, where, most: MOST }, signal);
    const { where } = model;
    const early = sampled(where);
    early.catch(() => null); // of a filter that is refused
    const front = await model.loadFront(signal);
    const points = model.where === where ? early : sampled(model.where);
    const drawn = { front, x, y, third };
    if (!chart.data && (await slow(points))) panel.fill({ ...drawn, points: NONE });
    return { ...drawn, points: await points };
  };
  const panel = new Panel(
    "Front",
    load,
    (data, body) => {
      const members = data.front.trials.filter((row) => placed(row, data));
      if (!members.length && !data.points.numbers.length && !data.points.coming) {
        return model.where ? "No trial satisfies the filter." : "No trial has been measured yet.";
      }
      taking.update();
      left.replaceChildren(...data.front.left_out.map((text) => make("p", { class: "note", text })));
      said.textContent = caption(data, members.length);
      if (!chart.root.isConnected) body.replaceChildren(chart.root, said, left, taking.root);
      panel.body.hidden = false;
      chart.show(data, `${said.textContent} ${data.y} over ${data.x}. The table beside it has the same trials.`);
      return null;
    },
    { wide: "seven" },
  );
  controls(model, panel);
  brushing(model, panel, chart);
  chart.on("click", (at) => at.data?.trial !== undefined && state.go(state.url({ trial: at.data.trial })));
  model.on("axes", () => {
    tools(model, panel);
    panel.reload();
  });
  model.on("where", () => panel.reload());
  model.on("here", (row) =>
    chart.chart?.setOption({ series: [{ id: "here", data: row ? [point(row, panel.last)] : [] }] }),
  );
  panel.chart = chart;
  panel.root.addEventListener("closed", taking.close);
  return panel;
}

function caption({ front, points }, members) {
  const shown =
    points.sampled < points.total
      ? `${count(points.sampled)} of ${count(points.total)} trials shown, evenly by number; the front is exact.`
      : `${plural(points.total, "trial")} shown.`;
  if (points.coming) return `${count(front.trials.length)} on the front. Loading the other trials…`;
  const missing = front.trials.length - members;
  const without = missing ? ` ${plural(missing, "member")} without these metrics not drawn.` : "";
  return `${count(front.trials.length)} on the front. ${shown}${without}`;
}

const point = (row, { x, y }) => ({ value: [valueOf(row, x), valueOf(row, y)], trial: row.number });

// The front as a file: a table, or all of its networks as one model.
function files(model, server) {
  const place = make("div", { "aria-live": "polite" });
  let open = null;
  const links = ["csv", "parquet"].map((format) =>
    make("a", { class: "quiet", download: true, "data-format": format, text: format }),
  );
  const whole = button(
    "one model of the whole front",
    () => {
      open?.close();
      open = fetchFile(model.name, { trial: null, format: "elastic" }, place);
    },
    { class: "quiet", disabled: server.read_only, title: "For nas.ElasticModel.load" },
  );
  const update = () =>
    links.forEach((link) =>
      link.setAttribute(
        "href",
        address(["studies", model.name, "front"], {
          where: model.where,
          objectives: model.by,
          format: link.dataset.format,
        }),
      ),
    );
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
    choose("colour", [["", "by time"], ...names], third ?? "", (name) => model.setAxes({ colour: name }), {
      id: "axis-colour",
    }),
    choose("front of", fronts(model, x, y), model.by ?? "", (by) => model.setBy(by), { id: "axis-front" }),
  );
}

// Objectives that a front can be of: the study's, or the two axes with either direction.
function fronts(model, x, y) {
  const found = [["", "the objectives"]];
  const free = [x, y].filter((name) => name !== "number");
  if (free.length === 2 && x !== y) {
    const goals = free.map((name) =>
      metricOf(model.study, name).goal ? [metricOf(model.study, name).goal] : ["min", "max"],
    );
    for (const a of goals[0]) for (const b of goals[1]) found.push([`${a} ${x}, ${b} ${y}`, `${a} ${x}, ${b} ${y}`]);
  }
  if (model.by && !found.some(([value]) => value === model.by)) found.push([model.by, model.by]);
  return found;
}
