// One trial: choices, measurements, curves, layers, the commands that take its network home, and its files.

import { get } from "../api.js";
import { axis, Chart, colour, grid, lines, series, tooltip } from "../charts.js";
import { button, chip, command, facts, make } from "../dom.js";
import { fetchFile } from "../files.js";
import { Panel } from "../panel.js";
import { isBeside } from "../plane.js";
import * as state from "../state.js";
import { table } from "../table.js";
import { count, duration, human, moment, shown, spread } from "../text.js";

const FORMATS = [
  ["safetensors", "safetensors"],
  ["onnx", "ONNX"],
  ["pt2", "pt2"],
  ["extract", "extracted network"],
];

export function trialView(root, server) {
  const study = state.of("study"),
    number = state.of("trial");
  document.title = `Trial ${number} of ${study} · supernas`;
  const parts = [];
  const place = make("div", { class: "grid" });
  const head = new Panel(
    "Trial",
    (signal) => get(["studies", study, "trials", number], {}, signal),
    (trial, body) => {
      body.replaceChildren(summary(trial));
      parts.splice(0).forEach((one) => one.close());
      place.replaceChildren(
        measurements(trial),
        chosen(trial),
        ...curves(trial, parts),
        taking(study, trial, server, parts),
        layers(study, trial, parts),
        ...told(trial),
      );
      return null;
    },
    { wide: "all" },
  );
  root.append(
    make(
      "p",
      { class: "crumbs" },
      make("a", { href: "?", text: "Studies" }),
      " / ",
      make("a", { href: state.url({ trial: null }), text: study }),
    ),
    make("div", { class: "beside" }, make("h1", { text: `Trial ${number}` }), neighbours(number)),
    head.root,
    place,
  );
  head.reload();
  return { close: () => [head, ...parts].forEach((one) => one.close()) };
}

function neighbours(number) {
  const at = Number(number);
  const to = (which, text) => make("a", { class: "quiet", href: state.url({ trial: which }), text });
  return make(
    "nav",
    { "aria-label": "Trials", class: "neighbours" },
    at > 0 ? to(at - 1, "‹ Previous") : null,
    to(at + 1, "Next ›"),
  );
}

function summary(trial) {
  return make(
    "div",
    {},
    make(
      "p",
      { class: "chips" },
      make("span", { class: `ended ${trial.state}`, text: trial.state.toLowerCase() }),
      trial.on_front ? chip("on the front", "goal") : null,
    ),
    trial.reason ? make("pre", { class: "reason", id: "reason", text: trial.reason }) : null,
    facts([
      ["Worker", trial.worker],
      ["Took", duration(trial.duration_s)],
      ["Finished", moment(trial.finished)],
      ["Started", moment(trial.started)],
      ["Attempt", trial.attempt],
      ["Seed", trial.seed],
      ["Violation", human(trial.violation)],
      ["Arch", trial.key],
    ]),
  );
}

const card = (title, wide, ...children) =>
  make(
    "section",
    { class: `card ${wide}`, "aria-label": title },
    make("div", { class: "head" }, make("h2", { text: title })),
    ...children,
  );

function measurements(trial) {
  const names = Object.keys(trial.measurements);
  const rows = names
    .filter((name) => !isBeside(name, names))
    .map((name) => ({ name, value: trial.measurements[name] }));
  if (!rows.length)
    return card("Measurements", "six", make("p", { class: "state empty", text: "Nothing has been measured." }));
  const columns = [
    { name: "name", title: "Metric", cell: (one) => one.name },
    {
      name: "value",
      title: "Value",
      number: true,
      cell: (one) =>
        make("span", { class: "strong", text: spread(one.value, trial.spread[one.name]), title: String(one.value) }),
    },
    { name: "noisy", title: "", cell: (one) => (trial.noisy.includes(one.name) ? chip("noisy", "warn") : "") },
  ];
  return card("Measurements", "six", table("Measurements", columns, rows, { key: (one) => one.name }));
}

function chosen(trial) {
  const rows = Object.entries(trial.choices).map(([name, value]) => ({ name, value }));
  const columns = [
    { name: "name", title: "Decision", cell: (one) => one.name },
    { name: "value", title: "Choice", cell: (one) => make("code", { text: shown(one.value) }) },
  ];
  return card("Choices", "six", table("Choices", columns, rows, { key: (one) => one.name }));
}

function curves(trial, parts) {
  const named = Object.entries(trial.curves).filter(([, points]) => points.length);
  if (!named.length) return [];
  const chart = new Chart((data) => ({
    grid: grid({ top: 46, bottom: 34 }),
    legend: { type: "scroll", top: 0, left: 0, textStyle: { color: colour("muted") } },
    xAxis: axis("step", [], { across: true }),
    yAxis: axis("", [], {}),
    tooltip: tooltip({ formatter: (at) => lines(at.seriesName, `step ${at.value[0]}: ${human(at.value[1])}`) }),
    series: data.map(([name, points], at) => ({
      name,
      type: "line",
      symbolSize: 5,
      color: series()[at % 8],
      data: points,
    })),
  }));
  parts.push(chart);
  requestAnimationFrame(() => chart.show(named, `Curves of ${named.map(([name]) => name).join(", ")}`));
  return [card("Curves", "all", chart.root)];
}

// -- layers

function layers(study, trial, parts) {
  const columns = [
    { name: "name", title: "Layer", cell: (one) => make("code", { text: one.name }) },
    { name: "type", title: "Type", cell: (one) => one.type },
    {
      name: "shape",
      title: "Output shape",
      cell: (one) => (Array.isArray(one.shape) ? one.shape.join(" × ") : (one.shape ?? "")),
    },
    { name: "parameters", title: "Parameters", number: true, cell: (one) => count(one.parameters) },
    { name: "macs", title: "MACs", number: true, cell: (one) => human(one.macs) },
  ];
  const load = (signal) => get(["studies", study, "trials", trial.number, "layers"], {}, signal);
  const panel = new Panel(
    "Layers",
    load,
    (data, body) => {
      if (!data.layers.length) return "The network has no layers of its own.";
      body.replaceChildren(
        make("p", { class: "figures", text: `${human(data.parameters)} parameters · ${human(data.macs)} MACs` }),
        table("Layers", columns, data.layers, { key: (one) => one.name }),
      );
      return null;
    },
    { lazy: true, wide: "all" },
  );
  parts.push(panel);
  panel.reload();
  return panel.root;
}

// -- commands and files

function taking(study, trial, server, parts) {
  const files = make("div", { class: "files", "aria-live": "polite" });
  const buttons = FORMATS.map(([format, title]) =>
    button(title, () => parts.push(fetchFile(study, { trial: trial.number, format }, files)), {
      class: "quiet",
      disabled: server.read_only,
      title: server.read_only ? "The server is read-only" : null,
      "data-format": format,
    }),
  );
  return card(
    "Take it home",
    "all",
    make("p", { class: "small", text: "On a machine with the study's job" }),
    command(trial.commands.extract),
    command(trial.commands.export),
    make("p", {
      class: "small",
      text: server.read_only ? "Files: the server is read-only" : "Or as a file, made and checked by the server",
    }),
    make("div", { class: "chips" }, ...buttons),
    files,
  );
}

function told(trial) {
  const notes = Object.entries(trial.notes ?? {});
  const found = [];
  if (notes.length)
    found.push(
      card(
        "Notes",
        "six",
        facts(
          notes.map(([name, value]) => [
            name,
            make("pre", { class: "reason", text: typeof value === "string" ? value : JSON.stringify(value, null, 1) }),
          ]),
        ),
      ),
    );
  if (trial.tries?.length)
    found.push(
      card(
        "Earlier tries",
        "six",
        ...trial.tries.map((one) =>
          make("pre", { class: "reason", text: typeof one === "string" ? one : JSON.stringify(one, null, 1) }),
        ),
      ),
    );
  return found;
}
