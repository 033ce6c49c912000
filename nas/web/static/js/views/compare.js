// Two or more studies over each other: their fronts in one plane, hypervolume by a common reference.

import { get } from "../api.js";
import { axis, Chart, colour, grid, lines, series, spansMuch, tooltip } from "../charts.js";
import { make } from "../dom.js";
import { Panel } from "../panel.js";
import { axesOf, axisTitle, onStep } from "../plane.js";
import * as state from "../state.js";
import { table } from "../table.js";
import { count, human } from "../text.js";
import { goal } from "./studies.js";

export function compareView(root) {
  const names = state.all("compare");
  document.title = `${names.join(" and ")} · supernas`;
  const fronts = new Chart(frontsOption, { tall: "tall" });
  const growth = new Chart(growthOption, { tall: "tall" });
  const load = (signal) =>
    get("compare", { study: names, where: state.of("where"), objectives: state.of("objectives") }, signal);
  const panel = new Panel(
    "Studies over each other",
    load,
    (data, body) => {
      body.replaceChildren(
        make("p", { class: "note", text: `By ${data.objectives.map(goal).join(", ")}` }),
        ...data.notes.map((text) => make("p", { class: "note", text })),
        make("div", { class: "two" }, fronts.root, growth.root),
        summary(data),
      );
      const sizes = data.studies.map((one) => `${one.name} ${one.front.length}`).join(", ");
      fronts.show(data, `Fronts: ${sizes} trials`);
      growth.show(data, "Hypervolume over finished trials");
      return null;
    },
    { wide: "all" },
  );
  const field = (name, label, placeholder) => {
    const input = make("input", { type: "text", id: `compare-${name}`, placeholder, spellcheck: "false" });
    input.value = state.of(name) ?? "";
    input.addEventListener("change", () => {
      state.keep({ [name]: input.value.trim() });
      panel.reload();
    });
    return make("label", { class: "choose" }, make("span", { text: label }), input);
  };
  panel.tools.append(field("where", "filter", "params < 50000"), field("objectives", "objectives", "those in common"));
  root.append(
    make("p", { class: "crumbs" }, make("a", { href: "?", text: "Studies" })),
    make("h1", { class: "spaced", text: names.join(" · ") }),
    panel.root,
  );
  panel.reload();
  return { close: () => [panel, fronts, growth].forEach((one) => one.close()) };
}

function summary(data) {
  const mark = (one) =>
    make("span", { class: `swatch series-${(data.studies.indexOf(one) % 8) + 1}`, "aria-hidden": "true" });
  const link = (one) =>
    make("span", {}, mark(one), make("a", { href: state.url({ study: one.name }, { fresh: true }), text: one.name }));
  const attained = Object.keys(data.studies[0]).filter((key) => key.startsWith("trials_to_"));
  const columns = [
    { name: "name", title: "Study", cell: link },
    { name: "trials", title: "Trials", number: true, cell: (one) => count(one.trials) },
    { name: "completed", title: "Completed", number: true, cell: (one) => count(one.completed) },
    { name: "front", title: "Front", number: true, cell: (one) => count(one.front.length) },
    { name: "joint", title: "On the joint front", number: true, cell: (one) => count(one.joint_front) },
    { name: "volume", title: "Hypervolume", number: true, cell: (one) => human(one.hypervolume) },
    ...data.objectives.map((each) => ({
      name: each.name,
      title: `Best ${each.name}`,
      number: true,
      cell: (one) => human(one[`best_${each.name}`]),
    })),
    ...attained.map((key) => ({
      name: key,
      title: `Trials to ${key.slice("trials_to_".length)} %`,
      number: true,
      cell: (one) => count(one[key]),
    })),
  ];
  return table("Studies compared", columns, data.studies, { key: (one) => one.name });
}

function frontsOption(data) {
  const [across, up] = axesOf(data.objectives);
  const colours = series();
  const all = data.studies.flatMap((one) => one.front.map((row) => row.measurements));
  const xs = all.map((one) => one[across.name]),
    ys = all.map((one) => one[up.name]);
  const drawn = data.studies.map((one, at) => ({
    name: one.name,
    type: "line",
    step: across.goal === "min" ? "end" : "start",
    symbol: "circle",
    symbolSize: 8,
    lineStyle: { width: 1.5 },
    color: colours[at % colours.length],
    data: onStep(one.front, across, up).map((row) => ({
      value: [row.measurements[across.name], row.measurements[up.name]],
      trial: row.number,
    })),
  }));
  return {
    grid: grid({ top: 58, bottom: 36 }),
    legend: legend(data.studies),
    xAxis: axis(axisTitle(across, "x"), xs, { across: true, logarithmic: spansMuch(xs) }),
    yAxis: axis(axisTitle(up, "y"), ys),
    tooltip: tooltip({
      formatter: (at) =>
        lines(
          `${at.seriesName}, trial ${at.data.trial}`,
          `${across.name} ${human(at.value[0])}`,
          `${up.name} ${human(at.value[1])}`,
        ),
    }),
    series: drawn,
  };
}

function growthOption(data) {
  const colours = series();
  return {
    grid: grid({ top: 58, bottom: 36 }),
    legend: legend(data.studies),
    xAxis: axis("finished trials", [], { across: true, more: { scale: false } }),
    yAxis: axis("hypervolume, common reference", [], { more: { scale: false } }),
    tooltip: tooltip({ formatter: (at) => lines(at.seriesName, `${human(at.value[1])} after ${count(at.value[0])}`) }),
    series: data.studies.map((one, at) => ({
      name: one.name,
      type: "line",
      step: "end",
      symbol: "circle",
      showSymbol: false,
      color: colours[at % colours.length],
      data: one.curve,
    })),
  };
}

const legend = (studies) => ({
  type: "scroll",
  top: 0,
  left: 0,
  textStyle: { color: colour("text") },
  data: studies.map((one) => one.name),
});
