// How far a study is, who works on it, how fast, and when it may end.

import { chip, make } from "../dom.js";
import { ago, clock, count, duration, human, moment, plural } from "../text.js";

const STATES = ["COMPLETED", "INFEASIBLE", "FAILED", "RUNNING", "WAITING"];

export function progress(study) {
  const { counts } = study;
  const finished = ["COMPLETED", "INFEASIBLE", "FAILED"].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  const wanted = study.trials_wanted;
  const total = Math.max(wanted ?? 0, study.total, 1);
  const parts = STATES.slice(0, 4).map((state) => {
    const part = make("span", { class: `part ${state}` });
    part.style.width = `${(100 * (counts[state] ?? 0)) / total}%`;
    return part;
  });
  const bar = make(
    "div",
    {
      class: "bar",
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": total,
      "aria-valuenow": finished,
      "aria-label": "Finished trials",
    },
    ...parts,
  );
  const legend = STATES.filter((state) => counts[state]).map((state) =>
    make(
      "span",
      { class: "key" },
      make("span", { class: `swatch ${state}`, "aria-hidden": "true" }),
      `${count(counts[state])} ${state.toLowerCase()}`,
    ),
  );
  return make(
    "div",
    { class: "progress", id: "progress" },
    make(
      "p",
      { class: "figures" },
      make("strong", { id: "finished", text: count(finished) }),
      wanted ? ` of ${count(wanted)} trials finished` : " trials finished",
      ...pace(study, finished),
    ),
    make("p", { class: "keys" }, ...legend),
    bar,
    workers(study),
  );
}

function pace(study, finished) {
  const rate = study.rate_per_s;
  if (!rate || !study.workers.length) {
    return study.last_activity
      ? [make("span", { class: "muted", text: ` · last activity ${ago(study.last_activity)}` })]
      : [];
  }
  const speed =
    rate >= 1
      ? `${human(rate)} a second`
      : rate >= 1 / 60
        ? `${human(rate * 60)} a minute`
        : `${human(rate * 3600)} an hour`;
  const left = study.trials_wanted ? (study.trials_wanted - finished) / rate : null;
  const end = left > 0 ? ` · about ${duration(left)} left, until ${clock(Date.now() / 1000 + left)}` : "";
  return [make("span", { class: "muted", text: ` · ${speed}${end}` })];
}

function workers(study) {
  if (!study.workers.length) return make("p", { class: "muted", id: "workers", text: "No worker at present." });
  const shown = study.workers.slice(0, 12).map((one) => chip(`${one.worker} · ${one.trials}`));
  const rest = study.workers.length - shown.length;
  return make(
    "p",
    { id: "workers", class: "workers" },
    make("span", {
      class: "muted",
      text: `${plural(study.workers.length, "worker")}, with the trials that each has: `,
    }),
    ...shown,
    rest > 0 ? make("span", { class: "muted", text: ` and ${count(rest)} more` }) : null,
  );
}

export const created = (study) => `created ${moment(study.created)}`;
