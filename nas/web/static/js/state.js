// What the page shows is in its URL: a link shows a colleague the same.

const listeners = new Set();

// The value of one name, or of a name that may occur several times.
export const of = (name) => new URLSearchParams(location.search).get(name);
export const all = (name) => new URLSearchParams(location.search).getAll(name);
export const has = (name) => new URLSearchParams(location.search).has(name);

// The URL with some names changed: null leaves a name out, a list repeats it.
export function url(changes, { fresh = false } = {}) {
  const query = new URLSearchParams(fresh ? "" : location.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    if (value === null || value === undefined || value === false || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) query.append(name, one === true ? "" : String(one));
  }
  return `?${query}`;
}

// Change the URL without another view.
export function keep(changes) {
  const next = url(changes);
  if (next !== (location.search || "?")) history.replaceState(null, "", next);
}

// Go to another view.
export function go(to) {
  history.pushState(null, "", to);
  for (const listener of listeners) listener();
}

export function onGo(listener) {
  listeners.add(listener);
  window.addEventListener("popstate", listener);
}

// Ranges that were brushed: `brush=params:1000:5000`, a name each.
export function ranges() {
  const found = new Map();
  for (const text of all("brush")) {
    const match = /^(.+):([^:]+):([^:]+)$/.exec(text);
    if (match && [match[2], match[3]].every((end) => Number.isFinite(Number(end)))) {
      found.set(match[1], [Number(match[2]), Number(match[3])]);
    }
  }
  return found;
}

export function keepRanges(brushed) {
  keep({ brush: [...brushed].map(([name, [low, high]]) => `${name}:${low}:${high}`), start: null });
}
