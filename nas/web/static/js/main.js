// Which view the URL means, the header, and the form for a token.

import { ahead, get, post, Problem } from "./api.js";
import { make } from "./dom.js";
import { show } from "./live.js";
import * as state from "./state.js";
import { compareView } from "./views/compare.js";
import { devicesView } from "./views/devices.js";
import { jobsView } from "./views/jobs.js";
import { studiesView } from "./views/studies.js";
import { studyView } from "./views/study.js";
import { tokenForm } from "./views/token.js";
import { trialView } from "./views/trial.js";

const main = document.getElementById("main");
const server = { version: "", read_only: false, jobs: false, token: false, database: "" };
let view = null;

function found() {
  if (state.has("trial") && state.of("study")) return [trialView, "studies"];
  if (state.of("study")) return [studyView, "studies"];
  if (state.all("compare").length > 1) return [compareView, "studies"];
  if (state.has("devices")) return [devicesView, "devices"];
  if (state.has("jobs")) return [jobsView, "jobs"];
  return [studiesView, "studies"];
}

// Show the view of the URL.
async function open() {
  view?.close();
  show("");
  const [makeView, name] = found();
  navigation(name);
  main.replaceChildren();
  if (makeView === studyView) {
    ahead(["studies", state.of("study")]);
    ahead(["studies", state.of("study"), "front"], { where: state.of("where"), objectives: state.of("front") });
  }
  try {
    Object.assign(server, await get("server"));
  } catch (error) {
    if (error.status === 401) return;
    banner(error instanceof Problem ? error.message : String(error));
  }
  header(name);
  view = makeView(main, server);
}

function navigation(current) {
  const views = [
    ["studies", "Studies", "?"],
    ["devices", "Devices", "?devices="],
    ["jobs", "Jobs", "?jobs="],
  ];
  document
    .getElementById("nav")
    .replaceChildren(
      ...views
        .filter(([name]) => name !== "jobs" || server.jobs)
        .map(([name, title, to]) =>
          make("a", { href: to, "data-view": name, text: title, "aria-current": name === current && "page" }),
        ),
    );
}

function header(current) {
  navigation(current);
  document.getElementById("database").textContent = server.database + (server.read_only ? " · read-only" : "");
  const out = document.getElementById("log-out");
  out.hidden = !server.token;
  out.onclick = async () => {
    await post("session", undefined, "DELETE").catch(() => null);
    location.reload();
  };
}

function banner(text) {
  const place = document.getElementById("banner");
  place.textContent = text;
  place.hidden = !text;
  if (text) setTimeout(() => again(), 2000);
}

// The server did not answer when the page was opened: try until it does.
async function again() {
  try {
    await get("server");
  } catch (error) {
    if (error.status !== 401) return void setTimeout(again, 2000);
  }
  banner("");
  open();
}

// A click on a link of the page changes the view without loading anew.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='?']");
  if (
    !link ||
    event.defaultPrevented ||
    event.button ||
    event.metaKey ||
    event.ctrlKey ||
    event.shiftKey ||
    link.target
  )
    return;
  event.preventDefault();
  state.go(link.getAttribute("href"));
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
});

window.addEventListener("token-wanted", () => {
  if (main.querySelector("form.token")) return;
  view?.close();
  view = null;
  show("");
  main.replaceChildren(tokenForm(open));
  main.querySelector("input").focus();
});

state.onGo(open);
open();
