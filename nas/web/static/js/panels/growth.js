// Hypervolume over trials.

import { get } from "../api.js";
import { axis, Chart, colour, grid, lines, tooltip } from "../charts.js";
import { make } from "../dom.js";
import { Panel } from "../panel.js";
import { count, human, percent, plural } from "../text.js";

export function growthPanel(model) {
  const chart = new Chart(option);
  const panel = new Panel(
    "Hypervolume",
    (signal) => get(["studies", model.name, "hypervolume"], {}, signal),
    (data, body) => {
      if (!data.at.length) return "It grows once two trials differ in the objectives.";
      const reference = Object.entries(data.reference)
        .map(([name, value]) => `${name} ${human(value)}`)
        .join(", ");
      if (!chart.root.isConnected) body.append(chart.root, make("p", { class: "note" }));
      body.querySelector("p").textContent = `${human(data.volume)} beyond ${reference}, the worst that is feasible`;
      body.hidden = false;
      const half = data.at[data.share.findIndex((share) => share >= 0.9)];
      chart.show(
        data,
        `Hypervolume over ${plural(data.at.at(-1), "feasible trial")}; 90 % of it after ${count(half)}.`,
      );
      return null;
    },
    { lazy: true, wide: "six" },
  );
  panel.chart = chart;
  return panel;
}

function option({ at, share }) {
  return {
    grid: grid({ top: 30, bottom: 34 }),
    xAxis: axis("feasible trials", at, { across: true, more: { scale: false, min: 0, max: at.at(-1) } }),
    yAxis: axis("share of the last", share, {
      more: { scale: false, min: 0, max: 1, axisLabel: { color: colour("muted"), formatter: percent } },
    }),
    tooltip: tooltip({
      trigger: "axis",
      formatter: ([one]) => lines(`${percent(one.value[1])} after ${count(one.value[0])} trials`),
    }),
    series: [
      {
        type: "line",
        step: "end",
        symbol: "none",
        lineStyle: { width: 2, color: colour("front") },
        itemStyle: { color: colour("front") },
        areaStyle: { color: colour("front"), opacity: 0.08 },
        data: at.map((x, one) => [x, share[one]]),
      },
    ],
  };
}
