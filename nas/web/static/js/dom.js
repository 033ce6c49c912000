// Elements. Whatever comes from the database goes into the document as text, never as markup.

// An element: `text` is its text, functions are listeners, `class` and other names are attributes; false and null
// are left out.
export function make(tag, attributes = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") one.textContent = String(value);
    else if (typeof value === "function") one.addEventListener(name, value);
    else one.setAttribute(name, value === true ? "" : String(value));
  }
  one.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return one;
}

export function button(text, pressed, attributes = {}) {
  return make("button", { type: "button", text, click: pressed, ...attributes });
}

// A labelled list of names, of which one is chosen. Options are names, or [name, label].
export function choose(label, options, chosen, changed, attributes = {}) {
  const list = make("select", { change: () => changed(list.value), ...attributes });
  for (const one of options) {
    const [value, text] = Array.isArray(one) ? one : [one, one];
    list.append(new Option(text, value, value === chosen, value === chosen));
  }
  return make("label", { class: "choose" }, make("span", { text: label }), list);
}

// A message for those who do not see the page.
export function say(text) {
  document.getElementById("say").textContent = text;
}

export function copying(text, label = "Copy") {
  const one = button(
    label,
    async () => {
      try {
        await navigator.clipboard.writeText(text);
        one.textContent = "Copied";
        say("Copied");
      } catch {
        one.textContent = copied(text) ? "Copied" : "Select it and copy";
      }
      setTimeout(() => {
        one.textContent = label;
      }, 2000);
    },
    { class: "copy quiet" },
  );
  return one;
}

// Without a secure context there is no clipboard of the browser; a selection can still be copied.
function copied(text) {
  const field = make("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } finally {
    field.remove();
  }
}

// A command that can be copied.
export function command(text, label = "Copy") {
  return make("div", { class: "command" }, make("code", { text, tabindex: "0" }), copying(text, label));
}

export function chip(text, kind = "") {
  return make("span", { class: `chip ${kind}`.trim(), text });
}

// Names and values, one pair a row.
export function facts(pairs) {
  const list = make("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    const told = make("dd");
    told.append(value instanceof Node ? value : String(value));
    list.append(make("dt", { text: name }), told);
  }
  return list;
}
