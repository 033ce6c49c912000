// Why trials failed or are infeasible, grouped by reason.

import { get } from "../api.js";
import { make } from "../dom.js";
import { Panel } from "../panel.js";
import * as state from "../state.js";
import { table } from "../table.js";
import { count } from "../text.js";

export function failuresPanel(model, wide) {
  const columns = [
    { name: "count", title: "Trials", number: true, cell: (one) => count(one.count) },
    {
      name: "state",
      title: "State",
      cell: (one) => make("span", { class: `ended ${one.state}`, text: one.state.toLowerCase() }),
    },
    {
      name: "reason",
      title: "Reason",
      cell: (one) => make("span", { class: "reason", text: one.reason || "no reason was given" }),
    },
    {
      name: "first",
      title: "First",
      number: true,
      cell: (one) => make("a", { href: state.url({ trial: one.first }), text: `trial ${one.first}` }),
    },
  ];
  const load = (signal) => get(["studies", model.name, "failures"], {}, signal);
  return new Panel(
    "Failed and infeasible",
    load,
    ({ reasons }, body) => {
      if (!reasons.length) return "No trial has failed, and none is infeasible.";
      body.replaceChildren(
        table("Failed and infeasible", columns, reasons, { key: (one) => `${one.state}:${one.first}` }),
      );
      return null;
    },
    { lazy: true, wide },
  );
}
