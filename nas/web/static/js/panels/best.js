// The best network within the budget, large, with the command that extracts it.

import { get } from "../api.js";
import { command, make } from "../dom.js";
import { Panel } from "../panel.js";
import { bestOf, metricNames } from "../plane.js";
import * as state from "../state.js";
import { choices, human, spread } from "../text.js";

export function bestPanel(model) {
  const load = async (signal) => {
    const [row, by] = bestOf(model.front.trials, model.study.objectives);
    const trial = row && (await get(["studies", model.name, "trials", row.number], {}, signal));
    return { row, by, trial };
  };
  const panel = new Panel("Best within the budget", load, ({ row, by, trial }, body) => {
    if (!row) return model.where ? "No trial on the front is within the budget." : "No trial has completed yet.";
    const others = metricNames(model.study)
      .filter((name) => name !== by.name && name in row.measurements)
      .slice(0, 6);
    body.replaceChildren(
      make(
        "p",
        { class: "large" },
        make("span", { class: "value", text: human(row.measurements[by.name]) }),
        make("span", {
          class: "unit",
          text: [row.spread[by.name] && `± ${human(row.spread[by.name])}`, by.name].filter(Boolean).join(" "),
        }),
      ),
      make(
        "p",
        { class: "named" },
        make("a", { id: "best", href: state.url({ trial: row.number }), text: `Trial ${row.number}` }),
      ),
      make(
        "dl",
        { class: "metrics" },
        ...others.map((name) =>
          make(
            "div",
            {},
            make("dt", { text: name }),
            make("dd", { text: spread(row.measurements[name], row.spread[name]) }),
          ),
        ),
      ),
      make("p", { class: "muted clamp", text: choices(row.choices), title: choices(row.choices) }),
      trial?.commands?.extract ? command(trial.commands.extract) : "",
    );
    return null;
  });
  panel.root.classList.add("best");
  let shown = "";
  model.on("front", () => {
    const [row] = bestOf(model.front.trials, model.study.objectives);
    const now = JSON.stringify([row?.number, row?.measurements, model.where]);
    if (now !== shown) panel.reload();
    shown = now;
  });
  return panel;
}
