// The chart of the front among the trials, as `nas front -o front.png` draws it.

import { axis, colour, errorBars, grid, lines, spansMuch, tooltip } from "./charts.js";
import { axisTitle, bestOf, metricOf, onStep, valueOf } from "./plane.js";
import { human, spread } from "./text.js";

const MOST_NUMBERED = 200;

// Whether a trial has a place in the plane.
export const placed = (row, { x, y }) => [x, y].every((name) => Number.isFinite(valueOf(row, name)));

export function frontChart(model, { front, points, x, y, third }) {
  const objectives = front.objectives;
  const across = objectives.find((one) => one.name === x) ?? metricOf(model.study, x);
  const up = objectives.find((one) => one.name === y) ?? metricOf(model.study, y);
  const members = front.trials.filter((row) => placed(row, { x, y }));
  const on = new Set(members.map((row) => row.number));
  const dots = points.numbers
    .map((number, at) => ({
      value: [points.xs[at], points.ys[at], number, points.colours?.[at] ?? null],
      trial: number,
      state: points.states[at],
    }))
    .filter((one) => !on.has(one.trial) && one.value[0] !== null && one.value[1] !== null);
  const inBoth = objectives.some((one) => one.name === x) && objectives.some((one) => one.name === y) && x !== y;
  const noisy = (row) => row.noisy.includes(x) || row.noisy.includes(y);
  const member = (row) => ({
    value: [valueOf(row, x), valueOf(row, y), row.number, third ? valueOf(row, third) : null],
    trial: row.number,
    row,
  });
  const xs = [...dots.map((one) => one.value[0]), ...members.map((row) => valueOf(row, x))];
  const ys = [...dots.map((one) => one.value[1]), ...members.map((row) => valueOf(row, y))];
  const red = colour("front");
  const [best] = bestOf(members, model.study.objectives);
  const drawn = [
    {
      name: "infeasible",
      type: "scatter",
      symbolSize: 5,
      itemStyle: { color: colour("infeasible") },
      data: dots.filter((one) => one.state === "INFEASIBLE"),
    },
    {
      name: third ? "dominated" : dominatedName(),
      type: "scatter",
      symbolSize: 5,
      itemStyle: { opacity: 0.85 },
      data: dots.filter((one) => one.state !== "INFEASIBLE"),
    },
    {
      name: "front",
      type: "scatter",
      symbolSize: 10,
      z: 4,
      itemStyle: { color: red, borderColor: red, borderWidth: third ? 1.5 : 0 },
      label: numbers(members.length),
      labelLayout: { hideOverlap: true },
      data: members.filter((row) => !noisy(row)).map(member),
    },
    {
      name: "front, noisy",
      type: "scatter",
      symbolSize: 9,
      z: 4,
      label: numbers(members.length),
      labelLayout: { hideOverlap: true },
      itemStyle: { color: colour("card"), borderColor: red, borderWidth: 2 },
      data: members.filter(noisy).map(member),
    },
    {
      type: "line",
      step: across.goal === "max" ? "start" : "end",
      symbol: "none",
      silent: true,
      z: 3,
      lineStyle: { color: red, width: 1.2, opacity: 0.6 },
      data: inBoth ? onStep(members, across, up).map(member) : [],
    },
    {
      ...errorBars(red),
      data: members
        .filter((row) => row.spread[x] || row.spread[y])
        .map((row) => [valueOf(row, x), valueOf(row, y), row.spread[x] ?? 0, row.spread[y] ?? 0]),
    },
    {
      id: "best",
      name: "best within the budget",
      type: "scatter",
      symbolSize: 18,
      silent: true,
      z: 3,
      itemStyle: { color: "transparent", borderColor: colour("text"), borderWidth: 1.5 },
      data: best ? [member(best)] : [],
    },
    {
      id: "here",
      type: "scatter",
      symbolSize: 22,
      silent: true,
      z: 5,
      itemStyle: { color: "transparent", borderColor: colour("accent"), borderWidth: 3 },
      data: [],
    },
  ];
  return {
    grid: grid({ top: 62, bottom: 34 }),
    legend: {
      top: 0,
      left: 0,
      type: "scroll",
      itemHeight: 9,
      itemWidth: 14,
      textStyle: { color: colour("muted"), fontSize: 11 },
      inactiveColor: colour("line"),
      data: drawn.filter((one) => one.name && one.data.length).map((one) => one.name),
    },
    xAxis: axis(axisTitle(across, "x"), xs, { across: true, logarithmic: spansMuch(xs) && x !== "number" }),
    yAxis: axis(axisTitle(up, "y"), ys, { logarithmic: up.goal !== "max" && spansMuch(ys) && y !== "number" }),
    tooltip: tooltip({ formatter: (at) => tip(at, x, y, third) }),
    visualMap: colours(third, dots, members, model.study.total),
    toolbox: { show: false },
    brush: {
      xAxisIndex: 0,
      yAxisIndex: 0,
      brushMode: "single",
      transformable: true,
      outOfBrush: { colorAlpha: 0.35 },
      brushStyle: { color: colour("brush"), borderColor: colour("accent"), borderWidth: 1 },
    },
    series: drawn,
  };
}

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const dominatedName = () => `dominated, ${dark() ? "brighter" : "darker"} when later`;

// Trial numbers beside the points, where there are not too many to be read.
function numbers(size) {
  return {
    show: size <= MOST_NUMBERED,
    position: "bottom",
    align: "left",
    offset: [2, 0],
    color: colour("muted"),
    fontSize: 10,
    formatter: (at) => String(at.data.trial),
  };
}

function colours(third, dots, members, total) {
  if (!third) {
    return [
      {
        show: false,
        type: "continuous",
        dimension: 2,
        seriesIndex: [1],
        min: 0,
        max: Math.max(total, 1),
        inRange: { color: [colour("early"), colour("late")] },
      },
    ];
  }
  const values = [...dots.map((one) => one.value[3]), ...members.map((row) => valueOf(row, third))].filter(
    Number.isFinite,
  );
  const min = values.reduce((a, b) => Math.min(a, b), Infinity),
    max = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return [
    {
      type: "continuous",
      dimension: 3,
      seriesIndex: [1, 2],
      min: values.length ? min : 0,
      max: values.length ? max : 1,
      orient: "horizontal",
      top: 20,
      right: 8,
      itemWidth: 10,
      itemHeight: 110,
      calculable: false,
      text: [human(max), `${third} ${human(min)}`],
      textStyle: { color: colour("muted"), fontSize: 11 },
      inRange: { color: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"] },
      outOfRange: { color: colour("infeasible") },
    },
  ];
}

function tip(at, x, y, third) {
  const { trial, row, state: ended } = at.data;
  const values = [x, y, third].filter((name) => name && name !== "number");
  const told = (name, place) => (row ? spread(valueOf(row, name), row.spread[name]) : human(at.value[place]));
  const measured = values.map((name) => `${name}  ${told(name, name === x ? 0 : name === y ? 1 : 3)}`);
  const chosen = row
    ? Object.entries(row.choices)
        .slice(0, 8)
        .map(([name, value]) => `${name} = ${value}`)
    : [];
  return lines(
    `trial ${trial}${row ? ", on the front" : ended === "INFEASIBLE" ? ", infeasible" : ""}`,
    ...measured,
    ...chosen,
  );
}
