// Dialogs: native <dialog>, so that focus stays inside, Escape closes, and focus returns to where it was.

import { freshId, h } from "./dom.js";
import { icon } from "./icons.js";
import { lower } from "./toasts.js";

/** Open a dialog with `title` and `body`; resolves when it closes. `close(value)` is given to `body` if it is a function. */
export function openDialog({ title, body, className = "", closed }) {
  const heading = freshId("title");
  const dialog = h("dialog", { class: `dialog ${className}`, "aria-labelledby": heading });
  let result;
  const close = (value) => {
    result = value;
    dialog.close();
  };
  const head = h(
    "header",
    { class: "dialog-head" },
    h("h2", { id: heading }, title),
    h("button", { type: "button", class: "ghost square", "aria-label": "Close", onclick: () => close() }, icon("close")),
  );
  const content = h("div", { class: "dialog-body" }, ...[typeof body === "function" ? body(close) : body].flat());
  if (!content.querySelector("a[href], button, input, select, [tabindex]")) content.setAttribute("tabindex", "0"); // else keys can't scroll it
  dialog.append(head, content);
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  const done = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      lower(dialog);
      dialog.remove();
      closed?.();
      resolve(result);
    });
  });
  dialog.showModal();
  dialog.querySelector("[autofocus]")?.focus();
  return Object.assign(done, { dialog, close });
}

/** Ask for a whole number; resolves to it, or undefined. */
export function askNumber({ title, text, label, value, min, max, action }) {
  const field = h("input", { type: "number", id: freshId("field"), value, min, max, step: 1, required: true, inputmode: "numeric", autofocus: true });
  return openDialog({
    title,
    className: "small",
    body: (close) =>
      h(
        "form",
        {
          method: "dialog",
          onsubmit: (event) => {
            event.preventDefault();
            close(field.valueAsNumber);
          },
        },
        text && h("p", { class: "soft" }, text),
        h("label", { class: "field", for: field.id }, label, field),
        h("div", { class: "dialog-foot" }, h("button", { type: "button", class: "button", onclick: () => close() }, "Cancel"), h("button", { type: "submit", class: "button primary" }, action)),
      ),
  });
}

/** Whether a dialog is open: then the page's own keys rest. */
export const dialogOpen = () => Boolean(document.querySelector("dialog[open]"));
