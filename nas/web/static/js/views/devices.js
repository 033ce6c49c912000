// Devices: what was measured on each, their predictors with errors, and predicted beside measured latency.

import { get } from "../api.js";
import { choose, facts, make } from "../dom.js";
import { Panel } from "../panel.js";
import { latencyPanel } from "../panels/latency.js";
import * as state from "../state.js";
import { table } from "../table.js";
import { count, human, moment, shown } from "../text.js";

export function devicesView(root) {
  document.title = "Devices · supernas";
  const parts = [];
  const place = make("div", { class: "grid" });
  const panel = new Panel(
    "Devices",
    (signal) => get("devices", {}, signal),
    ({ devices }, body) => {
      if (!devices.length) return "No device has been measured. Start with: nas measure";
      body.replaceChildren(table("Devices", columns(), devices, { key: (one) => one.name, chosen: true }));
      const wanted = devices.find((one) => one.name === state.of("devices"));
      parts.splice(0).forEach((one) => one.close());
      place.replaceChildren(...(wanted ? device(wanted, parts) : []));
      return null;
    },
    { wide: "all" },
  );
  root.append(make("h1", { class: "unseen", text: "Devices" }), panel.root, place);
  panel.reload();
  return { close: () => [panel, ...parts].forEach((one) => one.close()) };
}

const total = (one) => Object.values(one.measured).reduce((sum, each) => sum + each, 0);

function columns() {
  return [
    {
      name: "name",
      title: "Device",
      cell: (one) =>
        make("a", {
          href: state.url({ devices: one.name }, { fresh: true }),
          text: one.name,
          "aria-current": one.name === state.of("devices") && "true",
        }),
    },
    { name: "measured", title: "Measured", number: true, cell: (one) => count(total(one)) },
    {
      name: "spaces",
      title: "Spaces",
      cell: (one) =>
        Object.keys(one.measured)
          .map((mark) => one.spaces[mark] ?? mark.slice(0, 8))
          .join(", "),
    },
    { name: "predictors", title: "Predictors", number: true, cell: (one) => count(one.predictors.length) },
    { name: "created", title: "Created", cell: (one) => moment(one.created) },
  ];
}

function device(one, parts) {
  const about = make(
    "section",
    { class: "card six", "aria-label": one.name },
    make("div", { class: "head" }, make("h2", { text: one.name })),
    facts(Object.entries(one.description).map(([name, value]) => [name, shown(value)])),
  );
  const compared = make("div", { class: "all" });
  const marks = Object.keys(one.measured);
  return [
    about,
    predictors(one),
    studies(one, compared, parts),
    compared,
    ...(marks.length ? [measurements(one, marks, parts)] : []),
  ];
}

function predictors(one) {
  const rows = one.predictors.map((each, at) => ({ ...each, at }));
  const shownErrors = (each) =>
    Object.entries(each.errors)
      .map(([name, value]) => `${name} ${human(value)}`)
      .join(" · ");
  const found = [
    { name: "space", title: "Space", cell: (each) => each.space },
    { name: "kind", title: "Kind", cell: (each) => each.kind },
    { name: "errors", title: "Error on unseen archs", cell: shownErrors },
    { name: "created", title: "Fitted", cell: (each) => moment(each.created) },
  ];
  return make(
    "section",
    { class: "card six", "aria-label": "Predictors" },
    make("div", { class: "head" }, make("h2", { text: "Predictors" })),
    rows.length
      ? table("Predictors", found, rows, { key: (each) => each.at })
      : make("p", { class: "state empty", text: "None is fitted yet." }),
  );
}

// A study is chosen, and its trials' latency is shown beside what was measured on the device.
function studies(one, compared, parts) {
  let open = null;
  const show = async (name) => {
    state.keep({ of: name });
    open?.close();
    compared.replaceChildren();
    if (!name) return;
    try {
      open = latencyPanel(await get(["studies", name]), { wide: "all", fixed: one.name });
      compared.replaceChildren(open.root);
      open.reload();
    } catch (problem) {
      compared.replaceChildren(make("p", { class: "card state failed", text: problem.message }));
    }
  };
  const list = ({ studies: found }, body) => {
    const names = found.map((each) => each.name);
    if (!names.length) return "There is no study.";
    const first = names.includes(state.of("of")) ? state.of("of") : "";
    body.replaceChildren(choose("trials of", [["", "choose a study"], ...names], first, show, { id: "of" }));
    if (first) show(first);
    return null;
  };
  const panel = new Panel("Predicted and measured", (signal) => get("studies", {}, signal), list, { wide: "all" });
  parts.push(panel, { close: () => open?.close() });
  panel.reload();
  return panel.root;
}

function measurements(one, marks, parts) {
  const found = [
    { name: "key", title: "Arch", cell: (each) => make("code", { text: each.key }) },
    { name: "median", title: "Median, ms", number: true, cell: (each) => human(each.median_ms) },
    { name: "noisy", title: "", cell: (each) => (each.noisy ? "noisy" : "") },
    { name: "created", title: "Measured", cell: (each) => moment(each.created) },
  ];
  const mark = () => (marks.includes(state.of("space")) ? state.of("space") : marks[0]);
  const load = (signal) => get(["devices", one.name, "measurements"], { fingerprint: mark() }, signal);
  const panel = new Panel(
    "Measurements",
    load,
    (data, body) => {
      if (!data.measurements.length) return "Nothing was measured of this space.";
      const newest = data.measurements.slice(0, 500);
      const rest = data.measurements.length - newest.length;
      body.replaceChildren(
        table("Measurements", found, newest, { key: (each) => each.key }),
        rest ? make("p", { class: "note", text: `${count(rest)} more are not shown` }) : "",
      );
      return null;
    },
    { wide: "all", lazy: true },
  );
  if (marks.length > 1) {
    panel.tools.append(
      choose(
        "space",
        marks.map((each) => [each, one.spaces[each] ?? each.slice(0, 8)]),
        mark(),
        (space) => {
          state.keep({ space });
          panel.reload();
        },
        { id: "space" },
      ),
    );
  }
  parts.push(panel);
  panel.reload();
  return panel.root;
}
