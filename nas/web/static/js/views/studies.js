// The list of studies, of which some can be compared.

import { get } from "../api.js";
import { chip, make } from "../dom.js";
import { Live } from "../live.js";
import { Panel } from "../panel.js";
import * as state from "../state.js";
import { replaced, table } from "../table.js";
import { ago, count, human, plural } from "../text.js";

export const goal = (one) => `${one.goal} ${one.name}`;

export function studiesView(root) {
  document.title = "Studies · supernas";
  const chosen = new Set();
  const compare = make("button", {
    type: "button",
    class: "main",
    text: "Compare",
    disabled: true,
    click: () => state.go(state.url({ compare: [...chosen] }, { fresh: true })),
  });
  const panel = new Panel(
    "Studies",
    (signal) => get("studies", {}, signal),
    ({ studies }, body) => {
      for (const name of chosen) if (!studies.some((one) => one.name === name)) chosen.delete(name);
      if (!studies.length) return "There is no study in this database yet. Start one with: nas run JOB.py --store URL";
      replaced(body, table("Studies", columns(chosen, compare), studies, { key: (one) => one.name, chosen: true }));
      return null;
    },
    { wide: "all" },
  );
  panel.tools.append(make("span", { class: "muted", text: "Tick two or more to lay them over each other" }), compare);
  root.append(make("h1", { class: "unseen", text: "Studies" }), panel.root);
  const live = new Live("events", { studies: () => panel.renew(), reload: () => panel.renew() }, () => panel.renew());
  panel.reload();
  return { close: () => [panel, live].forEach((one) => one.close()) };
}

function columns(chosen, compare) {
  const box = (one) =>
    make("input", {
      type: "checkbox",
      "aria-label": `Compare ${one.name}`,
      checked: chosen.has(one.name),
      change: (event) => {
        chosen[event.target.checked ? "add" : "delete"](one.name);
        compare.disabled = chosen.size < 2;
      },
    });
  const done = (one) => one.counts.COMPLETED ?? 0;
  const best = (one) =>
    one.objectives
      .map((each) =>
        one.best[each.name] !== undefined && one.best[each.name] !== null
          ? `${each.name} ${human(one.best[each.name])}`
          : "",
      )
      .filter(Boolean)
      .join(" · ");
  const now = (one) =>
    one.workers.length
      ? chip(plural(one.workers.length, "worker"), "good")
      : make("span", { class: "muted", text: ago(one.last_activity) });
  return [
    { name: "pick", title: "", cell: box },
    {
      name: "name",
      title: "Study",
      cell: (one) => make("a", { href: state.url({ study: one.name }, { fresh: true }), text: one.name }),
    },
    { name: "objectives", title: "Objectives", cell: (one) => one.objectives.map(goal).join(", ") },
    { name: "total", title: "Trials", number: true, cell: (one) => count(one.total) },
    { name: "completed", title: "Completed", number: true, cell: (one) => count(done(one)) },
    { name: "infeasible", title: "Infeasible", number: true, cell: (one) => count(one.counts.INFEASIBLE ?? 0) },
    { name: "failed", title: "Failed", number: true, cell: (one) => count(one.counts.FAILED ?? 0) },
    { name: "front", title: "Front", number: true, cell: (one) => count(one.front) },
    { name: "best", title: "Best", cell: best },
    { name: "volume", title: "Hypervolume", number: true, cell: (one) => human(one.hypervolume) },
    { name: "now", title: "Last activity", cell: now },
    { name: "level", title: "Level of", cell: (one) => one.level_of ?? "" },
  ];
}
