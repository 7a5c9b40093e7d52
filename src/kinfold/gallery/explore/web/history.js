// @ts-check
// Every correction, the latest first.

import { redo, undo } from "./actions.js";
import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { count, sentence, when } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";

const SIGNS = { rename: "pen", merge: "merge", split: "split", move: "move", mark: "wrong", lock: "lock", confirm: "confirm", accept: "refine", undo: "undo", redo: "redo" };
const MOST = 500;

export async function mount(element) {
  const list = h("ol", { class: "entries" });
  const lede = h("p", { class: "lede", role: "status" });
  const back = h("button", { type: "button", class: "button", onclick: undo }, icon("undo"), h("span", {}, "Undo"));
  const forth = h("button", { type: "button", class: "button", onclick: redo }, icon("redo"), h("span", {}, "Redo"));
  element.append(h("header", { class: "page-head row" }, h("div", {}, h("h1", {}, "History"), lede), h("span", { class: "spring" }), !store.readOnly && h("div", { class: "works" }, back, forth)), list);
  const draw = async () => {
    const { edits, can_undo: canUndo, can_redo: canRedo } = await get("api/history", { limit: MOST });
    back.disabled = !canUndo;
    forth.disabled = !canRedo;
    lede.textContent = edits.length ? "Every correction is kept in the run, also those taken back. Undo takes back the last one made in this tab." : "Nothing has been corrected yet.";
    replace(list, edits.map(entry));
  };
  const forget = store.onChange(draw);
  await draw();
  return { title: "History", unmount: forget };
}

function entry(edit) {
  const notes = [!edit.mine && "another tab", edit.n_rows > 1 && `${count(edit.n_rows)} images`, edit.undone && "taken back", edit.problem].filter(Boolean);
  return h(
    "li",
    { class: `entry${edit.undone ? " undone" : ""}` },
    h("span", { class: "entry-sign" }, icon(SIGNS[edit.kind] ?? "info")),
    h("span", { class: "entry-text" }, h("span", { class: "words" }, sentence(edit.text)), h("span", { class: "soft small" }, notes.join(" · "))),
    h("time", { class: "soft number" }, when(edit.time)),
  );
}
