// The HTTP API, by URLs relative to the page, so that a path prefix of a proxy does not matter.

const BASE = "api/v1/";

// An answer that is no success, or no answer (status 0).
export class Problem extends Error {
  constructor(status, detail, more = {}) {
    super(detail);
    this.status = status;
    this.more = more;
  }
}

export function address(parts, query = {}) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") asked.append(name, one);
    }
  }
  const path = BASE + [parts].flat().map(encodeURIComponent).join("/");
  return asked.size ? `${path}?${asked}` : path;
}

const early = new Map();

// Ask for what a view will need, before it is there; the next `get` of the same is answered with it.
export function ahead(parts, query) {
  const where = address(parts, query);
  early.set(where, asked(where));
  early.get(where).catch(() => null); // told to who asks for it
}

export async function get(parts, query, signal) {
  const where = address(parts, query);
  const found = early.get(where);
  early.delete(where);
  return found ?? asked(where, signal);
}

async function asked(where, signal) {
  return answered(await reach(where, { signal }));
}

export async function post(parts, body, method = "POST") {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  return answered(await reach(address(parts), { method, headers, body: body && JSON.stringify(body) }));
}

async function reach(where, options) {
  try {
    return await fetch(where, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.");
  }
}

async function answered(response) {
  const text = await response.text();
  let told = null;
  try {
    told = text ? JSON.parse(text) : null;
  } catch {
    throw new Problem(response.ok ? 0 : response.status, `The answer is no JSON (status ${response.status}).`);
  }
  if (response.ok) return told;
  const problem = new Problem(
    response.status,
    String(told?.detail ?? `The server answered ${response.status}.`),
    told ?? {},
  );
  if (response.status === 401) window.dispatchEvent(new CustomEvent("token-wanted"));
  throw problem;
}
