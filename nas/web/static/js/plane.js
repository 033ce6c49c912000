// The plane of two metrics: which is across, which is up, and the front's line in it, as `nas front -o front.png`
// draws them.

// Cost across, quality up: the first objective to minimise and the first to maximise, else the first two.
export function axesOf(objectives) {
  const cost = objectives.find((one) => one.goal === "min");
  const quality = objectives.find((one) => one.goal === "max");
  if (cost && quality) return [cost, quality];
  return [objectives[0], objectives[1] ?? objectives[0]];
}

export const valueOf = (row, name) => (name === "number" ? row.number : row.measurements[name]);

// The members that no other dominates in this plane, from the best of x to the worst.
export function onStep(rows, across, up) {
  const sign = (one, row) => (one.goal === "max" ? -1 : 1) * valueOf(row, one.name);
  const placed = rows.filter((row) => [across, up].every((one) => Number.isFinite(valueOf(row, one.name))));
  placed.sort((a, b) => sign(across, a) - sign(across, b) || sign(up, a) - sign(up, b));
  let best = Infinity;
  return placed.filter((row) => {
    const better = sign(up, row) < best;
    best = Math.min(best, sign(up, row));
    return better;
  });
}

// The objective of a name; a metric that is none has no goal.
export function metricOf(study, name) {
  return study.objectives.find((one) => one.name === name) ?? { name, goal: null, unit: "" };
}

// Whether a column tells how noisy another one is: latency_spread_ms and latency_noisy of latency_ms.
export function isBeside(name, names) {
  const match = /^(.+)_(spread|p10|p90|noisy)(_.+)?$/.exec(name);
  if (!match) return false;
  const [, stem, what, unit = ""] = match;
  if (what !== "noisy") return names.includes(stem + unit);
  return names.some(
    (other) => other !== name && (other === stem || (other.startsWith(`${stem}_`) && !other.includes("_spread"))),
  );
}

// Names of the metrics without those columns, which are shown with their metric.
export function metricNames(study) {
  const names = study.metrics.map((one) => one.name);
  const declared = new Set([
    ...study.objectives.map((one) => one.name),
    ...study.constraint_list.map((one) => one.metric),
  ]);
  return names.filter((name) => declared.has(name) || !isBeside(name, names));
}

// The row that is best by the first objective to maximise, else by the first one.
export function bestOf(rows, objectives) {
  const by = objectives.find((one) => one.goal === "max") ?? objectives[0];
  const sign = by.goal === "max" ? -1 : 1;
  const placed = rows.filter((row) => Number.isFinite(valueOf(row, by.name)));
  return [placed.reduce((a, b) => (a && sign * valueOf(a, by.name) <= sign * valueOf(b, by.name) ? a : b), null), by];
}

const ARROWS = { x: { min: "←", max: "→" }, y: { min: "↓", max: "↑" } };

export function axisTitle(metric, way) {
  const name = metric.name === "number" ? "trial number" : metric.name;
  return metric.goal ? `${name}  ${ARROWS[way][metric.goal]} better` : name;
}
