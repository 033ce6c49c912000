// What a study's view shows: its declaration, the filter, the axes, what is brushed, and the front within the filter.

import { get } from "./api.js";
import { between, joined } from "./filters.js";
import { axesOf } from "./plane.js";
import * as state from "./state.js";

// Events: `study` (a new declaration), `where`, `axes`, `brush`, `front` (members came), `fault` (a filter was
// refused).
export class Model extends EventTarget {
  constructor(name) {
    super();
    this.name = name;
    this.where = state.of("where") ?? "";
    this.brushed = state.ranges();
    this.asked = 0;
  }

  tell(event, detail) {
    this.dispatchEvent(new CustomEvent(event, { detail }));
  }

  on(events, listener) {
    for (const event of events.split(" ")) this.addEventListener(event, (told) => listener(told.detail));
  }

  // What an event tells of the study.
  heard({ counts, workers, rate_per_s, ended }) {
    if (counts) {
      this.study.counts = counts;
      this.study.total = Object.values(counts).reduce((sum, one) => sum + one, 0);
    }
    if (workers) this.study.workers = workers;
    if (rate_per_s !== undefined) this.study.rate_per_s = rate_per_s;
    if (ended?.length) this.study.last_activity = Date.now() / 1000;
  }

  // -- axes

  get axes() {
    const [across, up] = axesOf(this.study.objectives);
    const alone = this.study.objectives.length === 1;
    return {
      x: this.known(state.of("x")) ?? (alone ? "number" : across.name),
      y: this.known(state.of("y")) ?? up.name,
      colour: this.known(state.of("colour")),
    };
  }

  known(name) {
    return name === "number" || this.study.metrics.some((one) => one.name === name) ? name : null;
  }

  setAxes(changes) {
    state.keep(changes);
    this.tell("axes");
  }

  // Objectives of the front where they are not the study's: "min params, max accuracy".
  get by() {
    return state.of("front");
  }

  setBy(objectives) {
    this.ready = null;
    state.keep({ front: objectives });
    this.tell("axes");
  }

  // -- the filter

  // Show what satisfies a filter; one that does not parse changes nothing but what is said of it.
  async apply(text) {
    const asked = ++this.asked;
    try {
      const front = await this.fetchFront(text);
      if (asked !== this.asked) return;
      this.where = text;
      this.ready = front;
      state.keep({ where: text, start: null });
      this.tell("fault", null);
      this.tell("where");
    } catch (problem) {
      if (asked === this.asked) this.tell("fault", { problem, text });
    }
  }

  fetchFront(where, signal) {
    return get(["studies", this.name, "front"], { where, objectives: this.by }, signal);
  }

  // The front within the filter: what `apply` was just given, or anew.
  async loadFront(signal) {
    let found = this.ready;
    this.ready = null;
    if (!found) {
      try {
        found = await this.fetchFront(this.where, signal);
      } catch (problem) {
        if (!problem.more?.place || !this.where) throw problem;
        this.tell("fault", { problem, text: this.where });
        this.where = "";
        this.tell("refused");
        found = await this.fetchFront("", signal);
      }
    }
    this.front = found;
    if (!this.where && !this.by) this.whole = found.trials;
    this.tell("front");
    return found;
  }

  // Members of the front without a filter, which say what a budget can be.
  async loadWhole() {
    if (!this.whole) this.whole = (await get(["studies", this.name, "front"], {})).trials;
    return this.whole;
  }

  // -- what is brushed

  brush(ranges) {
    this.brushed = ranges;
    state.keepRanges(ranges);
    this.tell("brush");
  }

  // The filter with what is brushed.
  get narrowed() {
    return joined([this.where, ...[...this.brushed].map(([name, range]) => between(name, range))]);
  }
}
