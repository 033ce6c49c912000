// The form for the token of the server.

import { post } from "../api.js";
import { make } from "../dom.js";

export function tokenForm(entered) {
  const field = make("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const fault = make("p", { class: "state failed", role: "alert", hidden: true });
  const send = async (event) => {
    event.preventDefault();
    try {
      await post("session", { token: field.value });
    } catch (error) {
      fault.textContent =
        error.status === 401 ? `This is not the token of the server. ${error.message}` : error.message;
      fault.hidden = false;
      field.select();
      return;
    }
    entered();
  };
  document.title = "Token · supernas";
  return make(
    "form",
    { class: "card token", submit: send },
    make("h1", { text: "Token" }),
    make("p", { text: "This server asks for a token. Its operator has it in the file given with --token." }),
    make("label", { for: "token", text: "Token" }),
    field,
    fault,
    make("button", { type: "submit", class: "main", text: "Open" }),
  );
}
