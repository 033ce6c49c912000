// Numbers, times and sizes as a person reads them.

const UNITS = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const SPACE = "\u00a0";

// 1052672 is 1.05 M, 12345 is 12.3 k, 0.98765 is 0.9877, as on the command line.
export function human(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e4 && Number.isFinite(size)) {
    const [scale, unit] = UNITS.find(([least]) => size >= least);
    return Number((value / scale).toPrecision(3)) + SPACE + unit;
  }
  if (size >= 1000) return Number(value.toPrecision(5)).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

export function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : "";
}

export function plural(number, noun, many = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : many}`;
}

// A value with its spread: 0.935 ± 0.004.
export function spread(value, half) {
  return half ? `${human(value)} ± ${human(Number(half.toPrecision(2)))}` : human(value);
}

export function percent(share) {
  return typeof share === "number" ? `${Number((share * 100).toPrecision(3))}${SPACE}%` : "";
}

// 4000 seconds are 1 h 7 min.
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "";
  if (seconds < 0.001) return `${human(seconds * 1e6)}${SPACE}µs`;
  if (seconds < 1) return `${human(Number((seconds * 1000).toPrecision(3)))}${SPACE}ms`;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))}${SPACE}s`;
  const parts = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  const from = parts.findIndex(([, size]) => seconds >= size);
  const [large, small] = [parts[from], parts[from + 1]];
  const whole = Math.floor(seconds / large[1]);
  const rest = Math.floor((seconds - whole * large[1]) / small[1]);
  return `${whole}${SPACE}${large[0]}` + (rest ? ` ${rest}${SPACE}${small[0]}` : "");
}

export function ago(at) {
  if (typeof at !== "number") return "never";
  const seconds = Math.max(0, Date.now() / 1000 - at);
  if (seconds < 5) return "just now";
  const [size, unit] = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
    [1, "s"],
  ].find(([least]) => seconds >= least);
  return `${Math.floor(seconds / size)}${SPACE}${unit} ago`;
}

export function clock(at) {
  return typeof at === "number" ? new Date(at * 1000).toLocaleTimeString() : "";
}

export function moment(at) {
  return typeof at === "number" ? new Date(at * 1000).toLocaleString() : "";
}

export function bytes(size) {
  if (typeof size !== "number") return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; size >= 1024 && at < 3; at++) size /= 1024;
  return `${Number(size.toPrecision(3))}${SPACE}${units[at]}`;
}

// Choices in one line.
export function choices(chosen) {
  return Object.entries(chosen ?? {})
    .map(([name, value]) => `${name} ${brief(value)}`)
    .join(" · ");
}

const brief = (value) => (typeof value === "number" && !Number.isInteger(value) ? human(value) : shown(value));

export function shown(value) {
  if (value === null) return "None";
  if (value === true || value === false) return value ? "True" : "False";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
