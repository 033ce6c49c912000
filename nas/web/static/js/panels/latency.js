// Latency as trials say it beside what was measured on a device.

import { get } from "../api.js";
import { axis, Chart, colour, grid, lines, tooltip } from "../charts.js";
import { choose, make } from "../dom.js";
import { Panel } from "../panel.js";
import * as state from "../state.js";
import { human, plural } from "../text.js";

// `study` is its declaration; `device` is chosen among those that measured archs of its space.
export function latencyPanel(study, { wide = "six", fixed = null } = {}) {
  const chart = new Chart((data) => option(study.name, data));
  const devices = fixed ? [fixed] : study.latency_devices;
  const metrics = study.metrics.map((one) => one.name).filter((name) => /latency|_ms$/.test(name));
  const names = metrics.length ? metrics : study.metrics.map((one) => one.name);
  const device = () => (devices.includes(state.of("device")) ? state.of("device") : devices[0]);
  const metric = () => (names.includes(state.of("latency")) ? state.of("latency") : names[0]);
  const load = (signal) => get(["studies", study.name, "latencies"], { device: device(), metric: metric() }, signal);
  const panel = new Panel(
    "Predicted and measured latency",
    load,
    (data, body) => {
      if (!data.pairs.length) return `No trial has both ${metric()} and a measurement on ${device()}.`;
      if (!chart.root.isConnected) body.append(make("p", { class: "figures" }), chart.root);
      const error = data.mape === null ? [] : [`${human(data.mape)} % mean absolute error`];
      const ranks = data.spearman === null ? [] : [`rank correlation ${human(data.spearman)}`];
      body.querySelector("p").textContent = [plural(data.pairs.length, "network"), ...error, ...ranks].join(" · ");
      body.hidden = false;
      chart.show(data, `Predicted over measured latency of ${data.pairs.length} networks on ${data.device}`);
      return null;
    },
    { lazy: true, wide },
  );
  const again = (name) => (value) => {
    state.keep({ [name]: value });
    panel.reload();
  };
  if (devices.length > 1) panel.tools.append(choose("device", devices, device(), again("device"), { id: "device" }));
  if (names.length > 1) panel.tools.append(choose("metric", names, metric(), again("latency"), { id: "latency" }));
  panel.chart = chart;
  return panel;
}

function option(study, data) {
  const all = data.pairs.flatMap((one) => [one.predicted, one.measured]);
  const ends = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  const dots = (noisy) =>
    data.pairs
      .filter((one) => Boolean(one.noisy) === noisy)
      .map((one) => ({ value: [one.measured, one.predicted], trial: one.number }));
  return {
    grid: grid({ top: 50, bottom: 34 }),
    legend: { top: 0, left: 0, textStyle: { color: colour("muted"), fontSize: 11 } },
    xAxis: axis("measured, ms", all, { across: true }),
    yAxis: axis("in the trial, ms", all),
    tooltip: tooltip({
      formatter: (at) =>
        lines(`trial ${at.data.trial}`, `measured ${human(at.value[0])} ms`, `in the trial ${human(at.value[1])} ms`),
    }),
    series: [
      {
        name: "equal",
        type: "line",
        silent: true,
        symbol: "none",
        lineStyle: { color: colour("muted"), type: "dashed", width: 1 },
        itemStyle: { color: colour("muted") },
        data: ends.map((end) => [end, end]),
      },
      {
        name: "networks",
        type: "scatter",
        symbolSize: 8,
        itemStyle: { color: colour("accent"), opacity: 0.8 },
        data: dots(false),
      },
      {
        name: "noisy",
        type: "scatter",
        symbolSize: 8,
        itemStyle: { color: colour("card"), borderColor: colour("accent"), borderWidth: 1.5 },
        data: dots(true),
      },
    ],
  };
}
