// Jobs of the operator's folder: start, stop, and the log while it grows.

import { get, post } from "../api.js";
import { button, facts, make, say } from "../dom.js";
import { Panel } from "../panel.js";
import * as state from "../state.js";
import { replaced, table } from "../table.js";
import { ago, bytes, moment, shown } from "../text.js";

const LOOK_MS = 1500;
const MOST_LOG = 400_000;

export function jobsView(root, server) {
  document.title = "Jobs · supernas";
  const parts = [];
  const place = make("div", { class: "grid" });
  let timer = 0,
    open = null;
  const panel = new Panel(
    "Jobs",
    (signal) => get("jobs", {}, signal),
    ({ jobs }, body) => {
      clearTimeout(timer);
      timer = setTimeout(() => panel.renew(), LOOK_MS * 2);
      if (!jobs.length) return "The folder given with --jobs has no job file.";
      replaced(body, table("Jobs", columns(), jobs, { key: (one) => one.name, chosen: true }));
      const wanted = jobs.find((one) => one.name === state.of("jobs"));
      if (wanted && open?.name !== wanted.name) open = job(wanted, place, server, parts, panel);
      else if (wanted) open.update(wanted);
      return null;
    },
    { wide: "all" },
  );
  root.append(make("h1", { class: "unseen", text: "Jobs" }), panel.root, place);
  panel.reload();
  return {
    close: () => {
      clearTimeout(timer);
      [panel, ...parts].forEach((one) => one.close());
    },
  };
}

function columns() {
  return [
    {
      name: "name",
      title: "Job",
      cell: (one) =>
        make("a", {
          href: state.url({ jobs: one.name }, { fresh: true }),
          text: one.name,
          "aria-current": one.name === state.of("jobs") && "true",
        }),
    },
    { name: "state", title: "State", cell: (one) => make("span", { class: `ended ${one.state}`, text: one.state }) },
    { name: "started", title: "Started", cell: (one) => (one.started ? ago(one.started) : "") },
    {
      name: "ended",
      title: "Ended",
      cell: (one) => (one.ended ? `${ago(one.ended)}${one.code ? `, code ${one.code}` : ""}` : ""),
    },
    { name: "log", title: "Log", number: true, cell: (one) => (one.log_bytes ? bytes(one.log_bytes) : "") },
  ];
}

// One job: its form and its log.
function job(first, place, server, parts, panel) {
  const { name } = first;
  const fault = make("p", { class: "state failed", role: "alert", hidden: true });
  const act = async (verb, body) => {
    fault.hidden = true;
    try {
      update(await post(["jobs", name, verb], body));
      say(`Job ${name}: ${verb}`);
      panel.renew();
    } catch (problem) {
      fault.textContent = problem.message;
      fault.hidden = false;
    }
  };
  const stop = button("Stop", () => act("stop", {}), { class: "danger" });
  const form = startForm((options) => act("start", options));
  const about = make("div", { class: "about" });
  const log = make("pre", {
    class: "log",
    role: "log",
    "aria-live": "off",
    tabindex: "0",
    "aria-label": `Log of ${name}`,
  });
  const following = follow(name, log);
  const update = (one) => {
    const running = ["running", "stopping"].includes(one.state);
    about.replaceChildren(
      make("span", { class: `ended ${one.state}`, text: one.state }),
      facts([
        ["Started", moment(one.started)],
        ["Ended", moment(one.ended)],
        ["Code", one.code],
        ["Options", options(one.options)],
      ]),
    );
    stop.hidden = !running;
    stop.disabled = one.state === "stopping" || server.read_only;
    form.hidden = running || server.read_only;
    following.running = running;
  };
  parts.push(following);
  update(first);
  place.replaceChildren(
    make(
      "section",
      { class: "card all", "aria-label": name },
      make("div", { class: "head" }, make("h2", { text: name }), make("div", { class: "tools" }, stop)),
      about,
      form,
      fault,
      server.read_only
        ? make("p", { class: "note", text: "The server is read-only: jobs are not started or stopped here." })
        : "",
      make("h3", { text: "Log" }),
      log,
    ),
  );
  return { name, update };
}

function options(given) {
  return Object.entries(given ?? {})
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${shown(value)}`)
    .join(" · ");
}

function startForm(start) {
  const number = (id, label, more = {}) =>
    make(
      "label",
      { class: "choose" },
      make("span", { text: label }),
      make("input", { type: "number", id, min: 1, step: 1, ...more }),
    );
  const form = make(
    "form",
    {
      class: "start",
      submit: (event) => {
        event.preventDefault();
        const value = (id) => form.querySelector(`#${id}`).value.trim();
        const numeric = (id) => (value(id) ? Number(value(id)) : null);
        start({
          trials: numeric("job-trials"),
          workers: numeric("job-workers"),
          time_limit_s: numeric("job-time"),
          address: value("job-address") || null,
        });
      },
    },
    number("job-trials", "trials", { placeholder: "of the job" }),
    number("job-workers", "workers", { value: 1, min: 0, required: true }),
    number("job-time", "time limit, s", { placeholder: "none", min: 0, step: "any" }),
    make(
      "label",
      { class: "choose" },
      make("span", { text: "Ray address" }),
      make("input", { type: "text", id: "job-address", placeholder: "this machine" }),
    ),
    make("button", { type: "submit", class: "main", text: "Start" }),
  );
  return form;
}

// The log from its end, and what is added to it.
function follow(name, log) {
  let next = -65536,
    timer = 0,
    closed = false;
  const self = {
    running: false,
    close: () => {
      closed = true;
      clearTimeout(timer);
    },
  };
  const look = async () => {
    try {
      const part = await get(["jobs", name, "log"], { after: next });
      if (closed) return;
      if (part.size < next) log.textContent = "";
      next = part.next;
      if (part.text) add(log, part.text);
      if (!log.textContent) log.dataset.empty = "The log is empty.";
    } catch (problem) {
      log.dataset.empty = problem.message;
    }
    if (!closed) timer = setTimeout(look, self.running ? LOOK_MS / 2 : LOOK_MS * 2);
  };
  look();
  return self;
}

function add(log, text) {
  const below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(text);
  if (log.textContent.length > MOST_LOG) log.textContent = log.textContent.slice(-MOST_LOG / 2);
  if (below) log.scrollTop = log.scrollHeight;
}
