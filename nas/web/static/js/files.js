// Files of networks: asked for, waited for, and loaded down when they are made.

import { address, get, post } from "./api.js";
import { command, make, say } from "./dom.js";
import { bytes } from "./text.js";

const LOOK_MS = 700;

// Ask for a file and say in `place` how it goes; {close} stops looking.
export function fetchFile(study, wanted, place) {
  const self = {
    open: true,
    close: () => {
      self.open = false;
    },
  };
  place.replaceChildren(make("p", { class: "state loading", text: `Making ${wanted.format}…` }));
  wait(self, study, wanted, place).catch((problem) => {
    place.replaceChildren(
      make("p", { class: "state failed", text: problem.message }),
      problem.more?.command ? command(problem.more.command) : "",
    );
  });
  return self;
}

async function wait(self, study, wanted, place) {
  let file = await post(["studies", study, "files"], wanted);
  while (self.open && file.state === "making") {
    await new Promise((next) => setTimeout(next, LOOK_MS));
    file = await get(["files", file.id]);
  }
  if (!self.open) return;
  place.replaceChildren(
    ...(file.state === "done" ? ready(file) : [make("p", { class: "state failed", text: file.said })]),
  );
}

function ready(file) {
  const link = make("a", {
    class: "main",
    href: address(["files", file.id, "content"]),
    download: file.name,
    text: `Download ${file.name}`,
  });
  setTimeout(() => link.isConnected && link.click());
  say(`${file.name} is ready`);
  return [
    make("p", {}, link, make("span", { class: "muted", text: ` ${bytes(file.size)}` })),
    make("p", { class: "muted" }, "SHA-256 ", make("code", { class: "break", text: file.sha256 })),
    file.said ? make("p", { class: "note", text: file.said }) : "",
  ];
}
