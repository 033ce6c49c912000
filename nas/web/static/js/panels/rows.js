// The table beside the chart: the front, or all trials by page, within the filter and what is brushed.

import { get } from "../api.js";
import { button, choose, make, say } from "../dom.js";
import { Panel } from "../panel.js";
import { metricNames, metricOf, valueOf } from "../plane.js";
import * as state from "../state.js";
import { replaced, table } from "../table.js";
import { choices, count, duration, human, plural, spread } from "../text.js";

const PAGE = 50;
const MOST_FRONT = 500;

export function rowsPanel(model) {
  const whole = () => state.of("rows") === "all";
  const load = async (signal) => {
    if (!whole()) return null;
    const sorted = sorting(model);
    return get(
      ["studies", model.name, "trials"],
      {
        where: model.narrowed,
        sort: sorted.name,
        descending: sorted.descending,
        start: Number(state.of("start")) || 0,
        count: PAGE,
      },
      signal,
    );
  };
  const panel = new Panel(
    "Trials",
    load,
    (page, body) => {
      const rows = page ? page.trials : frontRows(model);
      const told = page ? pageSaid(page) : frontSaid(model, rows.length);
      const parts = [chips(model), make("p", { class: "note", id: "rows-said", text: told })];
      if (rows.length)
        parts.push(
          table("Trials", columns(model, page !== null), rows.slice(0, page ? PAGE : MOST_FRONT), {
            sorted: sorting(model),
            chosen: true,
            sort: (name) => sort(model, panel, name),
          }),
        );
      else parts.push(make("p", { class: "state empty", text: nothing(model) }));
      if (page && page.total > PAGE) parts.push(pager(page, panel));
      replaced(body, ...parts);
      return null;
    },
    { wide: "five" },
  );
  panel.root.id = "trials";
  panel.tools.append(
    choose(
      "show",
      [
        ["front", "the front"],
        ["all", "all trials"],
      ],
      whole() ? "all" : "front",
      (shown) => {
        state.keep({ rows: shown === "all" ? "all" : null, start: null, sort: null, up: null });
        panel.reload();
      },
      { id: "rows" },
    ),
  );
  panel.body.addEventListener("focusin", (event) => model.tell("here", rowOf(model, event.target)));
  panel.body.addEventListener("mouseover", (event) => model.tell("here", rowOf(model, event.target)));
  panel.body.addEventListener("mouseleave", () => model.tell("here", null));
  panel.body.addEventListener("focusout", () => model.tell("here", null));
  model.on("front", () => (whole() ? panel.renew() : panel.reload()));
  model.on("brush", () => panel.reload().then(() => say(panel.body.querySelector("#rows-said")?.textContent ?? "")));
  return panel;
}

function rowOf(model, element) {
  const number = Number(element.closest("tr")?.dataset.key);
  return model.front?.trials.find((row) => row.number === number) ?? null;
}

// -- which rows

function frontRows(model) {
  const { name, descending } = sorting(model);
  const inside = (row) =>
    [...model.brushed].every(([metric, [low, high]]) => {
      const value = valueOf(row, metric);
      return value >= low && value <= high;
    });
  const value = (row) => valueOf(row, name) ?? row[name];
  const order = (a, b) => (value(a) ?? Infinity) - (value(b) ?? Infinity) || a.number - b.number;
  const found = model.front.trials.filter(inside).sort(order);
  return descending ? found.reverse() : found;
}

function sorting(model) {
  const name = state.of("sort");
  const [first] = model.study.objectives;
  if (name) return { name, descending: state.of("up") === null };
  return state.of("rows") === "all"
    ? { name: "number", descending: true }
    : { name: first.name, descending: first.goal === "max" };
}

function sort(model, panel, name) {
  const now = sorting(model);
  const descending = now.name === name ? !now.descending : metricOf(model.study, name).goal === "max";
  state.keep({ sort: name, up: descending ? null : "yes", start: null });
  panel.reload().then(() => {
    for (const head of panel.body.querySelectorAll("th"))
      if (head.hasAttribute("aria-sort")) head.querySelector("button")?.focus();
  });
}

// -- what is said

function frontSaid(model, shown) {
  const of = model.front.trials.length;
  const most = shown > MOST_FRONT ? `, the first ${MOST_FRONT} in this order` : "";
  return shown === of
    ? `${plural(of, "trial")} on the front${most}`
    : `${count(shown)} of ${plural(of, "trial")} on the front${most}`;
}

function pageSaid(page) {
  if (!page.trials.length) return "0 trials";
  return `${count(page.start + 1)}–${count(page.start + page.trials.length)} of ${plural(page.total, "trial")}`;
}

function nothing(model) {
  if (model.brushed.size) return "Nothing lies within the selected area.";
  return model.where ? "No trial satisfies the filter." : "No trial has completed yet.";
}

// What is brushed, each range with a button that removes it.
function chips(model) {
  const found = [...model.brushed].map(([name, [low, high]]) =>
    button(
      `${name} ${human(low)} – ${human(high)} ×`,
      () => {
        const rest = new Map(model.brushed);
        rest.delete(name);
        model.brush(rest);
      },
      { class: "chip brushed", "aria-label": `Remove the range of ${name}` },
    ),
  );
  return make("div", { class: "chips" }, ...found);
}

function pager(page, panel) {
  const to = (start) => {
    state.keep({ start: start || null });
    panel.reload();
  };
  const last = Math.floor((page.total - 1) / PAGE) * PAGE;
  return make(
    "div",
    { class: "pager" },
    button("First", () => to(0), { class: "quiet", disabled: page.start === 0 }),
    button("Previous", () => to(Math.max(0, page.start - PAGE)), { class: "quiet", disabled: page.start === 0 }),
    button("Next", () => to(page.start + PAGE), { class: "quiet", disabled: page.start + PAGE >= page.total }),
    button("Last", () => to(last), { class: "quiet", disabled: page.start >= last }),
  );
}

function columns(model, whole) {
  const { study, axes } = model;
  const shown = new Set([
    ...study.objectives.map((one) => one.name),
    axes.y,
    axes.x,
    axes.colour,
    ...study.constraint_list.map((one) => one.metric),
    ...metricNames(study),
  ]);
  shown.delete("number");
  shown.delete(null);
  const metric = (name) => ({ name, number: true, cell: (row) => measured(row, name) });
  return [
    {
      name: "number",
      title: "Trial",
      number: true,
      cell: (row) => make("a", { href: state.url({ trial: row.number }), text: row.number }),
    },
    ...(whole
      ? [
          {
            name: "state",
            title: "State",
            cell: (row) => make("span", { class: `ended ${row.state}`, text: row.state.toLowerCase() }),
          },
        ]
      : []),
    ...[...shown].slice(0, 8).map(metric),
    {
      name: "choices",
      title: "Choices",
      sort: false,
      cell: (row) =>
        make("span", {
          class: "choices",
          text: row.reason ?? choices(row.choices),
          title: row.reason ?? choices(row.choices),
        }),
    },
    ...(whole
      ? [
          { name: "duration_s", title: "Duration", number: true, cell: (row) => duration(row.duration_s) },
          { name: "worker", title: "Worker", cell: (row) => row.worker ?? "" },
        ]
      : []),
  ];
}

function measured(row, name) {
  const text = spread(row.measurements[name], row.spread[name]);
  if (!row.noisy.includes(name)) return text;
  return make("span", { class: "noisy", title: "noisy", text: `${text} ~` });
}
