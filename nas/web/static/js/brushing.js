// Selecting an area of the plane: it becomes ranges of the two metrics, which narrow the table beside the chart.

import { button } from "./dom.js";

export function brushing(model, panel, chart) {
  const toggle = button("Select area", () => set(toggle.getAttribute("aria-pressed") !== "true"), {
    id: "select-area",
    class: "quiet",
    title: "Drag over the chart: the table shows what lies within",
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
      if (area)
        ranges.set(
          name,
          area.coordRange[at].map((value, end) => outward(value, end)),
        );
      else ranges.delete(name);
    }
    if (area || model.brushed.size) model.brush(ranges);
  });
  model.on("brush", () => chart.chart && outline(model, chart));
}

function cursor(chart, on) {
  chart.chart?.dispatchAction({
    type: "takeGlobalCursor",
    key: "brush",
    brushOption: on ? { brushType: "rect", brushMode: "single" } : { brushType: false },
  });
}

// Draw what is brushed, also where it came from a link.
function outline(model, chart) {
  const { x, y } = chart.data;
  const range = [x, y].map((name) => model.brushed.get(name));
  const whole = chart.chart.getModel().getComponent("xAxis").axis.scale.getExtent();
  const tall = chart.chart.getModel().getComponent("yAxis").axis.scale.getExtent();
  const areas = range.some(Boolean)
    ? [{ brushType: "rect", xAxisIndex: 0, yAxisIndex: 0, coordRange: [range[0] ?? whole, range[1] ?? tall] }]
    : [];
  chart.chart.dispatchAction({ type: "brush", areas });
}

// A bound with four digits, beyond the one that was drawn.
function outward(value, end) {
  if (!value) return 0;
  const step = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return Number(((end ? Math.ceil : Math.floor)(value / step) * step).toPrecision(5));
}
