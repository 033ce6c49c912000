// The filter language, as far as sliders need it: a conjunction of clauses, of which some bound one column by a number.

const TOKEN = /\s+|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[\w.]+|<=|>=|==|!=|[<>()[\],]|./gsu;
const NAME = String.raw`([^\W\d][\w.]*(?:\[[^\]]*\][\w.]*)*)`;
const NUMBER = String.raw`([-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?)`;
const BOUND = new RegExp(`^${NAME}\\s*(<=|>=|<|>)\\s*${NUMBER}$`, "u");
const BOUND_BEFORE = new RegExp(`^${NUMBER}\\s*(<=|>=|<|>)\\s*${NAME}$`, "u");
const TURNED = { "<=": ">=", ">=": "<=", "<": ">", ">": "<" };

// The clauses that are joined by `and`; one clause where `or` joins them.
export function clauses(text) {
  const parts = [""];
  let depth = 0,
    alternatives = false;
  for (const [token] of text.matchAll(TOKEN)) {
    if ("([".includes(token)) depth++;
    if (")]".includes(token)) depth--;
    if (depth === 0 && token === "or") alternatives = true;
    if (depth === 0 && token === "and") parts.push("");
    else parts[parts.length - 1] += token;
  }
  const found = alternatives ? [text] : parts;
  return found.map((part) => part.trim()).filter(Boolean);
}

// {name, operator, bound} of a clause that bounds a column by a number, else null.
export function bound(clause) {
  const after = BOUND.exec(clause);
  if (after) return { name: after[1], operator: after[2], bound: number(after[3]) };
  const before = BOUND_BEFORE.exec(clause);
  return before ? { name: before[3], operator: TURNED[before[2]], bound: number(before[1]) } : null;
}

const isBound = (clause, name, upper) => {
  const found = bound(clause);
  return found !== null && found.name === name && (found.operator[0] === "<") === upper;
};

// The number that bounds a column from above (or below), or null.
export function boundOf(text, name, upper) {
  const clause = clauses(text).find((one) => isBound(one, name, upper));
  return clause === undefined ? null : bound(clause).bound;
}

// The filter with a column bounded by another number, or by none (null).
export function withBound(text, name, upper, value) {
  const all = clauses(text);
  const at = all.findIndex((one) => isBound(one, name, upper));
  const others = all.filter((one) => !isBound(one, name, upper));
  if (value !== null) others.splice(at < 0 ? others.length : at, 0, `${name} ${upper ? "<=" : ">="} ${spelled(value)}`);
  return joined(others);
}

// Clauses as one filter; those with `or` in parentheses.
export function joined(parts) {
  const wanted = parts.map((part) => part.trim()).filter(Boolean);
  if (wanted.length < 2) return wanted.join("");
  return wanted.map((part) => (hasOr(part) ? `(${part})` : part)).join(" and ");
}

function hasOr(text) {
  let depth = 0;
  for (const [token] of text.matchAll(TOKEN)) {
    if ("([".includes(token)) depth++;
    if (")]".includes(token)) depth--;
    if (depth === 0 && token === "or") return true;
  }
  return false;
}

// How a filter spells a metric: by its name, unless a decision has that, too.
export function spelling(study, metric) {
  return study.decisions.some((one) => one.name === metric) ? `measurements["${metric}"]` : metric;
}

// A column between two numbers.
export function between(name, [low, high]) {
  return `${spelled(low)} <= ${name} <= ${spelled(high)}`;
}

// A number as the filter language has it: 1_230_000.
export function spelled(value) {
  if (Number.isInteger(value) && Math.abs(value) >= 1e4 && Math.abs(value) < 1e15) {
    return value.toLocaleString("en").replaceAll(",", "_");
  }
  return String(value);
}

function number(text) {
  return Number(text.replaceAll("_", ""));
}
