// One study, live: budget, front, table, hypervolume, importance, parallel coordinates, failures, latency.

import { get } from "../api.js";
import { chip, make } from "../dom.js";
import { Live, show } from "../live.js";
import { Model } from "../model.js";
import { Panel } from "../panel.js";
import { bestPanel } from "../panels/best.js";
import { budgetPanel } from "../panels/budget.js";
import { declaration } from "../panels/declaration.js";
import { failuresPanel } from "../panels/failures.js";
import { frontPanel } from "../panels/front.js";
import { growthPanel } from "../panels/growth.js";
import { importancePanel } from "../panels/importance.js";
import { latencyPanel } from "../panels/latency.js";
import { parallelPanel } from "../panels/parallel.js";
import { progress } from "../panels/progress.js";
import { rowsPanel } from "../panels/rows.js";
import * as state from "../state.js";
import { goal } from "./studies.js";

const FRONT_MS = 700,
  QUICK_MS = 6000,
  SLOW_MS = 30_000,
  RARE_MS = 120_000;

export function studyView(root, server) {
  const name = state.of("study");
  document.title = `${name} · supernas`;
  const model = new Model(name);
  const parts = { quick: [], slow: [], rare: [], all: [] };
  const about = make("div", { class: "about" });
  const place = make("div", { class: "grid" });
  const head = new Panel(
    "Progress",
    (signal) => declaredStudy(name, signal),
    (study, body) => {
      const first = !model.study;
      model.study = study;
      if (first) about.replaceChildren(...declared(study));
      body.replaceChildren(progress(study));
      if (first) build(model, place, parts, server);
      model.tell("study");
      return null;
    },
    { wide: "all quiet-head" },
  );
  root.append(
    make("a", {
      class: "skip",
      href: "#trials",
      text: "Skip to the table",
      click: (event) => {
        event.preventDefault();
        toTable(place);
      },
    }),
    make("p", { class: "crumbs" }, make("a", { href: "?", text: "Studies" })),
    make("h1", { text: name }),
    about,
    head.root,
    place,
  );
  parts.all.push(head);
  const live = follow(name, model, head, parts);
  head.reload();
  return { close: () => [...parts.all, live].forEach((one) => one.close()) };
}

// The declaration; of a study that a job of the server runs, how many trials that was asked for.
async function declaredStudy(name, signal) {
  const study = await get(["studies", name], {}, signal);
  if (study.job && !study.trials_wanted) {
    const job = await get(["jobs", study.job], {}, signal).catch(() => null);
    study.trials_wanted = job?.state === "running" ? (job.options?.trials ?? null) : null;
  }
  return study;
}

function toTable(place) {
  const link = place.querySelector("#trials tbody a") ?? place.querySelector("#trials select");
  link?.focus();
}

function declared(study) {
  const level = study.level_of
    ? [
        make(
          "span",
          { class: "muted" },
          "a level of ",
          make("a", {
            href: state.url({ study: study.level_of }, { fresh: true }),
            text: study.level_of,
          }),
        ),
      ]
    : [];
  const job = study.job
    ? [make("a", { href: state.url({ jobs: study.job }, { fresh: true }), text: `job ${study.job}` })]
    : [];
  return [
    ...study.objectives.map((one) => chip(goal(one), "goal")),
    ...study.constraints.map((text) => chip(text)),
    make("span", { class: "muted", text: `space ${study.space}` }),
    ...level,
    ...job,
  ];
}

// The panels in their order; those that are cheap follow each change, the others now and then.
function build(model, place, parts, server) {
  const budget = budgetPanel(model),
    best = bestPanel(model);
  const front = frontPanel(model, server),
    rows = rowsPanel(model);
  const growth = growthPanel(model),
    importance = importancePanel(model),
    parallel = parallelPanel(model),
    failures = failuresPanel(model, model.study.latency_devices.length ? "six" : "all");
  const latency = model.study.latency_devices.length ? [latencyPanel(model.study)] : [];
  model.on("where", () => importance.reload());
  parts.quick.push(front);
  parts.slow.push(growth, parallel, failures, ...latency);
  parts.rare.push(importance);
  parts.all.push(front, best, rows, budget, ...parts.slow, importance);
  place.append(
    make("div", { class: "top-row" }, budget.root, best.root),
    front.root,
    rows.root,
    growth.root,
    importance.root,
    parallel.root,
    failures.root,
    ...latency.map((one) => one.root),
    declaration(model.study),
  );
  for (const panel of [front, importance, ...parts.slow]) panel.reload();
}

// What an event tells is shown at once; what has to be asked for is asked for at a pace that a search does not notice.
function follow(name, model, head, parts) {
  const timers = {};
  const later = (which, wait, panels) => {
    timers[which] ??= setTimeout(() => {
      timers[which] = null;
      panels().forEach((panel) => panel.renew());
    }, wait);
  };
  const everything = () => [head, ...parts.quick, ...parts.slow, ...parts.rare].forEach((panel) => panel.renew());
  const changed = (event) => {
    show("live");
    if (!model.study) return;
    model.heard(event);
    head.fill(model.study);
    if (event.front_changed) later("front", FRONT_MS, () => parts.quick);
    if (!event.front_changed && !event.ended?.length && !event.more) return;
    later("quick", QUICK_MS, () => parts.quick);
    later("slow", SLOW_MS, () => [head, ...parts.slow]);
    later("rare", RARE_MS, () => parts.rare);
  };
  const live = new Live(
    ["studies", name, "events"],
    {
      change: changed,
      idle: (event) => {
        model.study && model.heard({ workers: [], rate_per_s: null, ...event });
        show("idle");
        everything();
      },
      reload: everything,
      gone: () => {
        live.leave();
        show("gone");
        head.reload();
      },
    },
    everything,
  );
  const close = live.close.bind(live);
  live.close = () => {
    Object.values(timers).forEach(clearTimeout);
    close();
  };
  return live;
}
