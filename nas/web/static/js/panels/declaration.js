// What a study is of: its space, decisions, algorithm, evaluators and job.

import { facts, make } from "../dom.js";
import { table } from "../table.js";
import { human, moment, shown } from "../text.js";

export function declaration(study) {
  const { settings } = study;
  const algorithm =
    settings.algorithm &&
    Object.entries(settings.algorithm)
      .map(([name, value]) => (name === "name" ? shown(value) : `${name}=${shown(value)}`))
      .join(", ");
  const about = facts([
    ["Space", study.space],
    ["Created", moment(study.created)],
    ["Algorithm", algorithm],
    ["Evaluators", settings.evaluators && short(settings.evaluators)],
    ["Job", settings.job && short(settings.job)],
    ["Levels", study.levels.length ? study.levels.map((one) => shown(one.name ?? one)).join(", ") : null],
    ["Declared over HTTP", study.declared ? "yes" : null],
  ]);
  const columns = [
    { name: "name", title: "Decision", cell: (one) => one.name },
    { name: "kind", title: "Kind", cell: (one) => one.kind ?? "" },
    {
      name: "values",
      title: "Values",
      cell: (one) => make("span", { class: "choices", text: values(one), title: values(one) }),
    },
  ];
  return make(
    "details",
    { class: "card all" },
    make("summary", {}, make("h2", { text: "Declaration" })),
    about,
    table("Decisions", columns, study.decisions, { key: (one) => one.name }),
  );
}

function values(one) {
  if (one.candidates) return one.candidates.map(shown).join(", ");
  const scale = one.scale && one.scale !== "linear" ? `, ${one.scale}` : "";
  return one.min !== undefined ? `${human(one.min)} to ${human(one.max)}${scale}` : "";
}

function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
