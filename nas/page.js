"use strict";
// The page of a front: a plot whose axes are chosen and whose points tell their trial, and a table that sorts and filters.
// Everything shown comes from the JSON beside it and goes into the document as text, never as markup.

const UNITS = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]];

function human(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e4) {
    const [scale, unit] = UNITS.find(([least]) => size >= least);
    return Number((value / scale).toPrecision(3)) + unit;
  }
  if (size >= 1000) return Number(value.toPrecision(5)).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

function ticks(low, high, logarithmic) {
  if (logarithmic) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    const inside = found.filter((tick) => tick >= low && tick <= high);
    if (inside.length >= 2) return inside.length > 9 ? inside.filter((tick) => /^1e/.test(tick.toExponential())) : inside;
  }
  const raw = (high - low) / 6 || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= raw);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

const CLAUSE = /^\s*([\w.[\]"']+)\s*(<=|>=|==|<|>)\s*([-+0-9._eE]+)\s*$/;
const COMPARE = {
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "==": (a, b) => a === b, "<": (a, b) => a < b, ">": (a, b) => a > b,
};

const SPELLED = /^(choices|measurements|trial)\[["'](.*)["']\]$/;

// What a trial has by a name, as the filters of `nas front` spell it, in each of the columns that are called so.
function meant(trial, name) {
  const [, kind, rest] = SPELLED.exec(name) ?? [];
  const table = { choices: trial.choices, measurements: trial.values, trial: { number: trial.number } }[kind];
  if (table) return Object.hasOwn(table, rest) ? [[name, table[rest]]] : [];
  const found = name === "trial" || name === "number" ? [['trial["number"]', trial.number]] : [];
  if (Object.hasOwn(trial.values, name)) found.push([`measurements["${name}"]`, trial.values[name]]);
  if (Object.hasOwn(trial.choices, name)) found.push([`choices["${name}"]`, trial.choices[name]]);
  return found;
}

// A sentence on a name in a filter that several columns have; "" where there is none.
function ambiguous(text, trials) {
  for (const [, name] of text.split(/\s+and\s+/).map((part) => CLAUSE.exec(part) ?? [])) {
    const spellings = trials.map((trial) => meant(trial, name ?? "")).find((found) => found.length > 1);
    if (spellings) return `several columns are called ${name}: write ${spellings.map(([one]) => one).join(" or ")}`;
  }
  return "";
}

// A test of trials from what a person typed: comparisons joined by "and", and else text that the trial contains.
function filter(text) {
  const tests = text.split(/\s+and\s+/).filter((part) => part.trim()).map((part) => {
    const match = CLAUSE.exec(part);
    if (!match) return (trial) => trial.text.toLowerCase().includes(part.trim().toLowerCase());
    const [, name, op, bound] = match;
    return (trial) => {
      const found = meant(trial, name);
      const value = found[0]?.[1];
      return found.length === 1 && typeof value === "number" && COMPARE[op](value, Number(bound.replaceAll("_", "")));
    };
  });
  return (trial) => tests.every((test) => test(trial));
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const svg = document.getElementById("plot"), tip = document.getElementById("tip");
  const across = document.getElementById("across"), up = document.getElementById("up");
  const asked = document.getElementById("filter"), body = document.querySelector("tbody");
  const rows = new Map([...body.rows].map((row) => [Number(row.dataset.trial), row]));
  const W = 760, H = 420, L = 70, B = 45, T = 12, R = 16;
  for (const trial of data.trials) {
    trial.text = `trial ${trial.number} ` + Object.entries(trial.choices).map(([name, value]) => `${name}=${value}`).join(" ");
  }

  function make(kind, attributes, text) {
    const one = document.createElementNS(svg.namespaceURI, kind);
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    if (text !== undefined) one.textContent = text;
    svg.append(one);
    return one;
  }

  function scale(name, from, to) {
    const values = data.trials.map((trial) => trial.values[name]).filter((value) => typeof value === "number");
    let low = Math.min(...values), high = Math.max(...values);
    const logarithmic = low > 0 && high / low > 10;
    const go = logarithmic ? Math.log10 : (value) => value;
    const back = logarithmic ? (value) => 10 ** value : (value) => value;
    const room = (go(high) - go(low)) * 0.04 || Math.abs(go(high)) * 0.1 || 1;
    low = go(low) - room; high = go(high) + room;
    const place = (value) => from + ((go(value) - low) / (high - low)) * (to - from);
    return { place, ticks: ticks(back(low), back(high), logarithmic) };
  }

  function tell(trial, event) {
    tip.replaceChildren();
    const lines = [`trial ${trial.number}${trial.front ? ", on the front" : ""} (${trial.state})`];
    for (const [name, value] of Object.entries(trial.values)) lines.push(`${name}: ${human(value)}`);
    for (const [name, value] of Object.entries(trial.choices)) lines.push(`${name} = ${value}`);
    for (const line of lines.slice(0, 40)) tip.append(Object.assign(document.createElement("div"), { textContent: line }));
    tip.hidden = false;
    tip.style.left = `${Math.min(event.pageX + 14, window.innerWidth - 280)}px`;
    tip.style.top = `${event.pageY + 10}px`;
    rows.get(trial.number)?.classList.add("here");
  }

  function draw() {
    svg.replaceChildren();
    const keep = filter(asked.value), x = scale(across.value, L, W - R), y = scale(up.value, H - B, T);
    for (const tick of x.ticks) {
      make("line", { x1: x.place(tick), x2: x.place(tick), y1: T, y2: H - B, class: "grid" });
      make("text", { x: x.place(tick), y: H - B + 16, "text-anchor": "middle" }, human(tick));
    }
    for (const tick of y.ticks) {
      make("line", { x1: L, x2: W - R, y1: y.place(tick), y2: y.place(tick), class: "grid" });
      make("text", { x: L - 6, y: y.place(tick) + 4, "text-anchor": "end" }, human(tick));
    }
    make("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, across.value + (data.better[across.value] || ""));
    make("text", { x: -(T + H - B) / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle" },
      up.value + (data.better[up.value] || ""));
    for (const trial of data.trials) {
      const a = trial.values[across.value], b = trial.values[up.value];
      if (typeof a !== "number" || typeof b !== "number") continue;
      const kind = trial.front ? "front" : trial.state === "COMPLETED" ? "dominated" : "infeasible";
      const faint = keep(trial) ? "" : " faint";
      if (trial.front) {
        const [da, db] = [trial.half[across.value], trial.half[up.value]];
        if (da) make("line", { x1: x.place(Math.max(a - da, a / 10)), x2: x.place(a + da), y1: y.place(b), y2: y.place(b), class: "bar" + faint });
        if (db) make("line", { x1: x.place(a), x2: x.place(a), y1: y.place(Math.max(b - db, b / 10)), y2: y.place(b + db), class: "bar" + faint });
      }
      const noisy = trial.noisy.includes(across.value) || trial.noisy.includes(up.value);
      const dot = make("circle", { cx: x.place(a), cy: y.place(b), r: trial.front ? 6 : 3.5, class: kind + (noisy ? " noisy" : "") + faint });
      dot.addEventListener("mousemove", (event) => tell(trial, event));
      dot.addEventListener("mouseleave", () => { tip.hidden = true; rows.get(trial.number)?.classList.remove("here"); });
      dot.addEventListener("click", () => rows.get(trial.number)?.scrollIntoView({ block: "center" }));
    }
    let shown = 0;
    for (const trial of data.trials) {
      const row = rows.get(trial.number);
      if (row) { row.hidden = !keep(trial); shown += row.hidden ? 0 : 1; }
    }
    document.getElementById("count").textContent = ambiguous(asked.value, data.trials) || `${shown} of ${rows.size} trials of the front`;
  }

  for (const [list, chosen] of [[across, data.axes[0]], [up, data.axes[1]]]) {
    for (const name of data.metrics) list.append(new Option(name, name, name === chosen, name === chosen));
    list.addEventListener("change", draw);
  }
  asked.addEventListener("input", draw);
  document.querySelectorAll("th").forEach((head, index) => head.addEventListener("click", () => {
    const sign = head.dataset.order === "up" ? -1 : 1;
    head.parentNode.querySelectorAll("th").forEach((other) => { delete other.dataset.order; });
    head.dataset.order = sign === 1 ? "up" : "down";
    const key = (row) => row.cells[index].dataset.value ?? row.cells[index].textContent;
    const order = (a, b) => (a === "") - (b === "") || sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    body.append(...[...body.rows].sort((one, other) => order(key(one), key(other))));
  }));
  document.getElementById("controls").hidden = false;
  draw();
}

if (typeof module !== "undefined") module.exports = { human, ticks, filter, ambiguous, start };
else start();
