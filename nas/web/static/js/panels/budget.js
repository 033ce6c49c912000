// The filter and the sliders: a slider writes a clause of the filter, and the filter sets the sliders.

import { boundOf, spelling, withBound } from "../filters.js";
import { button, make, say } from "../dom.js";
import { metricNames, metricOf, valueOf } from "../plane.js";
import { human, plural } from "../text.js";

const STEPS = 200;
const WAIT_MS = 350;

export function budgetPanel(model) {
  const field = make("input", {
    type: "text",
    id: "where",
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    placeholder: "accuracy >= 0.9 and params < 50000",
    "aria-describedby": "where-said where-fault",
  });
  field.value = model.where;
  const said = make("p", { class: "note", id: "where-said", role: "status", "aria-live": "polite" });
  const fault = make("div", { class: "fault", id: "where-fault", role: "alert", hidden: true });
  const sliders = make("div", { class: "sliders" });
  const clear = button("Clear", () => apply(""), { class: "quiet" });
  let waiting = 0,
    all = [];

  const apply = (text) => {
    clearTimeout(waiting);
    field.value = text;
    all.forEach((one) => one.set(text));
    model.apply(text.trim());
  };
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      all.forEach((one) => one.set(field.value));
      model.apply(field.value.trim());
    }, WAIT_MS);
  };
  field.addEventListener("input", later);
  field.addEventListener("keydown", (event) => event.key === "Enter" && apply(field.value));

  model.on("fault", (told) => {
    field.setAttribute("aria-invalid", String(Boolean(told)));
    fault.hidden = !told;
    fault.replaceChildren(...(told ? faultOf(told) : []));
  });
  model.on("front", () => {
    const within = model.where ? "within the filter" : "on the front";
    said.textContent = model.where ? `${plural(model.front.trials.length, "trial")} on the front ${within}` : "";
    if (model.where) say(said.textContent);
    build();
  });

  const build = async () => {
    const whole = await model.loadWhole().catch(() => null);
    if (!whole || (all.length && sliders.contains(document.activeElement))) return;
    const wanted = ranges(model, whole, field.value);
    const mark = JSON.stringify(wanted);
    if (sliders.dataset.mark === mark) return;
    sliders.dataset.mark = mark;
    all = wanted.map((range) =>
      slider(range, (value) => {
        field.value = withBound(field.value, range.column, range.upper, value);
        later();
      }),
    );
    all.forEach((one) => one.set(field.value));
    sliders.replaceChildren(...all.map((one) => one.root));
  };

  const root = make(
    "section",
    { class: "card budget", "aria-label": "Budget" },
    make("div", { class: "head" }, make("h2", { text: "Budget" }), make("div", { class: "tools" }, clear)),
    make("label", { for: "where", class: "small", text: "Filter" }),
    field,
    said,
    fault,
    sliders,
  );
  return { root, close: () => clearTimeout(waiting) };
}

// The sentence of the API, and the filter with the faulty place marked.
function faultOf({ problem, text }) {
  const [start, end] = problem.more?.place ?? [];
  const shown = make("pre", { class: "place" });
  if (Number.isInteger(start)) {
    const last = Math.max(end, start + 1);
    shown.append(text.slice(0, start), make("mark", { text: text.slice(start, last) || "⎵" }), text.slice(last));
  }
  return [make("p", { text: problem.message }), ...(shown.firstChild ? [shown] : [])];
}

// What each slider spans: the front's values of objectives and constrained metrics; a cost is bounded from above.
function ranges(model, whole, text) {
  const { study } = model;
  const named = [
    ...study.objectives.map((one) => one.name),
    ...study.constraint_list.map((one) => one.metric),
    ...metricNames(study),
  ];
  const found = [];
  for (const name of new Set(named)) {
    const values = whole.map((row) => valueOf(row, name)).filter(Number.isFinite);
    const upper = metricOf(study, name).goal !== "max";
    const column = spelling(study, name);
    const now = boundOf(text, column, upper);
    if (now !== null) values.push(now);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity),
      high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    if (high > low) found.push({ name, column, upper, low, high });
  }
  return found.slice(0, 8);
}

function slider(range, changed) {
  const { name, column, upper, low, high } = range;
  const logarithmic = low > 0 && high / low > 10;
  const value = (step) => (logarithmic ? low * (high / low) ** (step / STEPS) : low + ((high - low) * step) / STEPS);
  const step = (at) =>
    Math.round(STEPS * (logarithmic ? Math.log(at / low) / Math.log(high / low) : (at - low) / (high - low)));
  const open = upper ? STEPS : 0;
  const id = `slider-${name}`;
  const bar = make("input", { type: "range", id, min: 0, max: STEPS, step: 1 });
  const said = make("output", { for: id });
  const tell = (bound) => {
    said.textContent = bound === null ? "any" : `${upper ? "≤" : "≥"} ${human(bound)}`;
    bar.setAttribute("aria-valuetext", bound === null ? "any" : `${upper ? "at most" : "at least"} ${human(bound)}`);
  };
  bar.addEventListener("input", () => {
    const bound = Number(bar.value) === open ? null : rounded(value(Number(bar.value)), upper);
    tell(bound);
    changed(bound);
  });
  const root = make(
    "div",
    { class: "slider" },
    make("label", { for: id }, make("span", { text: name }), said),
    bar,
    make("div", { class: "ends" }, make("span", { text: human(low) }), make("span", { text: human(high) })),
  );
  return {
    root,
    set: (text) => {
      const bound = boundOf(text, column, upper);
      bar.value = bound === null ? open : Math.min(STEPS, Math.max(0, step(bound)));
      tell(bound);
    },
  };
}

// Three digits, to the side that keeps what lies at the bound.
function rounded(value, upper) {
  if (!value) return 0;
  const size = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 2);
  return Number(((upper ? Math.ceil : Math.floor)(value / size - (upper ? 1e-9 : -1e-9)) * size).toPrecision(3));
}
