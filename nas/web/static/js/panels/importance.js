// How much each decision matters for an objective, with its uncertainty.

import { get } from "../api.js";
import { axis, Chart, colour, errorBars, grid, lines, tooltip } from "../charts.js";
import { choose, make } from "../dom.js";
import { Panel } from "../panel.js";
import * as state from "../state.js";
import { count, human } from "../text.js";

const MOST = 12;

export function importancePanel(model) {
  const chart = new Chart(option);
  const objectives = model.study.objectives.map((one) => one.name);
  const chosen = () => (objectives.includes(state.of("matter")) ? state.of("matter") : objectives[0]);
  const load = (signal) =>
    get(["studies", model.name, "importance"], { objective: chosen(), where: model.where }, signal);
  const panel = new Panel(
    "Importance of decisions",
    load,
    (data, body) => {
      if (!data.decisions.length) return data.note || "No decision varies among the trials.";
      if (!chart.root.isConnected) body.append(chart.root, make("p", { class: "note" }));
      const rest = data.decisions.length > MOST ? ` The ${MOST} that matter most of ${data.decisions.length}.` : "";
      const fit =
        typeof data.explained === "number"
          ? `, explains ${human(data.explained)} of the variance of held-out trials (R²)`
          : "";
      body.querySelector("p").textContent = `A model of ${count(data.of)} trials${fit}.${rest} ${data.note}`.trim();
      body.hidden = false;
      chart.root.style.height = `${60 + 26 * Math.min(MOST, data.decisions.length)}px`;
      const [first] = ranked(data);
      chart.show(data, `Importance for ${data.objective}: ${first.name} matters most, ${human(first.importance)}`);
      return null;
    },
    { lazy: true, wide: "six" },
  );
  panel.tools.append(
    choose(
      "for",
      objectives,
      chosen(),
      (name) => {
        state.keep({ matter: name });
        panel.reload();
      },
      { id: "matter" },
    ),
  );
  panel.chart = chart;
  return panel;
}

const ranked = (data) => [...data.decisions].sort((a, b) => b.importance - a.importance).slice(0, MOST);

function option(data) {
  const shown = ranked(data).reverse();
  const bars = shown.map((one, at) => [one.importance, at, one.deviation ?? 0, 0]);
  return {
    grid: grid({ top: 6, bottom: 34 }),
    xAxis: axis("importance", [], { across: true, more: { scale: false, min: 0, max: longest(shown) } }),
    yAxis: {
      type: "category",
      data: shown.map((one) => one.name),
      axisTick: { show: false },
      axisLine: { lineStyle: { color: colour("line") } },
      axisLabel: { color: colour("text"), width: 130, overflow: "truncate" },
    },
    tooltip: tooltip({
      formatter: (at) => lines(at.name, `${human(at.value)} ± ${human(shown[at.dataIndex].deviation)}`),
    }),
    series: [
      {
        type: "bar",
        barMaxWidth: 14,
        itemStyle: { color: colour("accent"), opacity: 0.75, borderRadius: 2 },
        data: shown.map((one) => one.importance),
      },
      { ...errorBars(colour("text"), { vertical: false }), z: 4, data: bars },
    ],
  };
}

// Where the longest bar with its uncertainty ends, in steps of a tenth of its size.
function longest(shown) {
  const end = Math.max(1e-3, ...shown.map((one) => one.importance + (one.deviation ?? 0)));
  const step = 10 ** Math.floor(Math.log10(end));
  return Number((Math.ceil((end / step) * 10 + 1e-9) * step * 0.1).toPrecision(6));
}
