// @ts-check
// A heading that turns into a field: Enter saves, Escape leaves it as it was. `closed` is called once it is a heading again.

import { h, replace } from "./dom.js";
import { icon } from "./icons.js";

export function editableName({ value, shown, save, closed, readOnly }) {
  const place = h("div", { class: "naming" });
  const show = (focus = false) => {
    const button = h("button", { type: "button", class: "ghost square rename", "aria-label": `Rename ${shown}`, title: "Rename (R)", onclick: write }, icon("pen"));
    replace(place, h("h1", {}, shown), !readOnly && button);
    if (focus) button.focus();
  };
  const write = () => {
    const field = h("input", { type: "text", class: "name-field", "aria-label": "Name of the group", maxlength: 200, placeholder: shown, spellcheck: "false", autocomplete: "off" });
    field.value = value ?? "";
    let done = false;
    const finish = async (keep) => {
      if (done) return;
      done = true;
      const text = field.value.trim();
      show(true);
      if (keep && text !== (value ?? "")) await save(text);
      closed();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") finish(true);
      else if (event.key === "Escape") finish(false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    field.addEventListener("blur", () => finish(true));
    replace(place, field);
    field.focus();
    field.select();
  };
  show();
  return place;
}
