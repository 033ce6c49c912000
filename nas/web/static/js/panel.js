// A part of a view that loads something: its states are loading, ready, empty, stale and failed, all of them visible.

import { button, make } from "./dom.js";
import { clock } from "./text.js";

export class Panel {
  // `load(signal)` gives data; `draw(data, body)` shows them, and returns a sentence where there is nothing to show.
  constructor(title, load, draw, { wide = "", lazy = false, note = "" } = {}) {
    this.load = load;
    this.draw = draw;
    this.tools = make("div", { class: "tools" });
    this.body = make("div", { class: "body" });
    this.status = make("p", { class: "state", role: "status", "aria-live": "polite" });
    const head = make("div", { class: "head" }, make("h2", { text: title }), this.tools);
    this.root = make(
      "section",
      { class: `card ${wide}`.trim(), "aria-label": title },
      head,
      note && make("p", { class: "note", text: note }),
      this.status,
      this.body,
    );
    this.near = !lazy;
    this.wanted = false;
    if (lazy) this.watch();
    this.show("loading", "Loading…");
  }

  // Load again because something else is asked for.
  reload() {
    this.running?.abort();
    this.running = null;
    this.root.removeAttribute("aria-busy");
    this.wanted = true;
    return this.run();
  }

  // Load again because the database has changed; what is under way is finished first.
  renew() {
    this.wanted = true;
    return this.running ? Promise.resolve() : this.run();
  }

  async run() {
    if (!this.near || !this.wanted || this.closed) return;
    this.wanted = false;
    const running = new AbortController();
    this.running = running;
    if (this.root.dataset.state !== "ready") this.show("loading", "Loading…");
    this.root.setAttribute("aria-busy", "true");
    try {
      const data = await this.load(running.signal);
      if (running.signal.aborted || this.closed) return;
      this.fill(data);
    } catch (error) {
      if (running.signal.aborted || this.closed) return;
      this.fail(error);
    } finally {
      if (this.running === running) {
        this.running = null;
        this.root.removeAttribute("aria-busy");
        if (this.wanted) setTimeout(() => this.running || this.run(), 500);
      }
    }
  }

  fill(data) {
    this.at = Date.now() / 1000;
    const nothing = this.draw(data, this.body);
    this.show(nothing ? "empty" : "ready", nothing ?? "");
  }

  // What is shown stays, and is said to be old; where nothing is shown yet, the server's sentence stands in its place.
  fail(error) {
    const again = button("Try again", () => this.reload(), { class: "quiet" });
    if (error.status === 409 && !this.at) return this.show("empty", error.message); // it is not there to be had
    if (this.at && ["ready", "empty", "stale"].includes(this.root.dataset.state)) {
      this.show("stale", `Stale: as of ${clock(this.at)}. ${error.message}`, again);
    } else {
      this.show("failed", error.message, again);
    }
  }

  show(state, text, ...more) {
    this.root.dataset.state = state;
    this.status.className = `state ${state}`;
    this.status.replaceChildren(make("span", { text }), ...more);
    this.status.hidden = !text;
    this.body.hidden = state === "empty" || state === "failed" || (state === "loading" && !this.at);
  }

  // Nothing is loaded while it is out of sight.
  watch() {
    this.seen = new IntersectionObserver(
      (entries) => {
        this.near = entries.at(-1).isIntersecting;
        if (!this.running) this.run();
      },
      { rootMargin: "300px" },
    );
    this.seen.observe(this.root);
  }

  close() {
    this.closed = true;
    this.running?.abort();
    this.seen?.disconnect();
    this.chart?.close();
    this.root.dispatchEvent(new Event("closed"));
  }
}
