// Tables that are reached by keyboard: arrows go from row to row, headings sort.

import { button, make } from "./dom.js";

// Columns are {name, title, number, cell(row), sort}; `sorted` is {name, descending}; `sort(name)` is called by a
// heading.
export function table(label, columns, rows, { sorted = {}, sort, chosen, key = (row) => row.number } = {}) {
  const body = make("tbody", { keydown: walk });
  for (const row of rows) {
    const line = make("tr", { "data-key": key(row), click: chosen && ((event) => pick(event, line)) });
    for (const column of columns) {
      const cell = make("td", { class: column.number ? "number" : "text" });
      const told = column.cell(row);
      cell.append(told instanceof Node ? told : String(told ?? ""));
      line.append(cell);
    }
    body.append(line);
  }
  const heads = columns.map((column) => heading(column, sorted, sort));
  const shown = make("table", { "aria-label": label }, make("thead", {}, make("tr", {}, ...heads)), body);
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, shown);
}

// Show a table in the place of an older one: what has the focus keeps it, and the table stays where it was scrolled to.
export function replaced(body, ...parts) {
  const row = body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : undefined;
  const { scrollTop, scrollLeft } = body.querySelector(".scroll") ?? {};
  body.replaceChildren(...parts);
  const place = body.querySelector(".scroll");
  if (row !== undefined) body.querySelector(`tr[data-key="${CSS.escape(row)}"] :is(a, input)`)?.focus();
  if (place) Object.assign(place, { scrollTop: scrollTop ?? 0, scrollLeft: scrollLeft ?? 0 });
}

function heading(column, sorted, sort) {
  const title = column.title ?? column.name;
  const here = sorted.name === column.name;
  const head = make("th", {
    scope: "col",
    class: column.number ? "number" : "text",
    "aria-sort": here ? (sorted.descending ? "descending" : "ascending") : null,
  });
  if (sort && column.sort !== false) head.append(button(title, () => sort(column.name), { class: "sort" }));
  else head.append(title);
  return head;
}

// A click beside a link follows the row's link.
function pick(event, line) {
  if (event.target.closest("a, button, input") || String(getSelection())) return;
  line.querySelector("a")?.click();
}

function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest("tr");
  if (!step || !row) return;
  const to = step === 1 ? row.nextElementSibling : row.previousElementSibling;
  const link = to?.querySelector("a, input");
  if (!link) return;
  event.preventDefault();
  link.focus();
}
