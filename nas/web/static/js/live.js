// Server-sent events, and what the page says of the connection.
// A tab that is hidden holds no connection: browsers allow six of them to one server, and one page each would use
// them up.

import { address } from "./api.js";

const AGAIN_MS = 2000;

// Follow a stream: `heard` by name of the event; `joined` when a connection is there again and everything may have
// changed.
export class Live {
  constructor(parts, heard, joined) {
    this.parts = parts;
    this.heard = heard;
    this.joined = joined;
    this.lost = false;
    this.met = false;
    this.seen = () => (document.hidden ? this.leave() : this.join());
    document.addEventListener("visibilitychange", this.seen);
    this.seen();
  }

  join() {
    if (this.source || this.closed) return;
    const source = new EventSource(address(this.parts));
    this.source = source;
    source.addEventListener("open", () => {
      const again = this.met;
      this.met = true;
      this.lost = false;
      show("live");
      if (again) this.joined();
    });
    source.addEventListener("error", () => {
      this.lost = true;
      show("lost");
      if (source.readyState === EventSource.CLOSED) {
        this.leave();
        this.waiting = setTimeout(() => !document.hidden && this.join(), AGAIN_MS);
      }
    });
    for (const [name, listener] of Object.entries(this.heard)) {
      source.addEventListener(name, (event) => listener(read(event.data)));
    }
  }

  leave() {
    clearTimeout(this.waiting);
    this.source?.close();
    this.source = null;
  }

  close() {
    this.closed = true;
    this.leave();
    document.removeEventListener("visibilitychange", this.seen);
    show("");
  }
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

const SAID = {
  live: "Live",
  lost: "Lost connection, trying again",
  idle: "No worker is running",
  gone: "Deleted",
  "": "",
};

// What the header says: live, idle, lost or gone.
export function show(state) {
  const place = document.getElementById("link-state");
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  place.textContent = SAID[state];
  document.body.dataset.link = state;
}
