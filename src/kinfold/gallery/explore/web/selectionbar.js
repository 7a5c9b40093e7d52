// What can be done with the selected images: a bar at the foot of the page while any are.

import { confirmRows, markRows, moveRows } from "./actions.js";
import { h, replace } from "./dom.js";
import { images } from "./format.js";
import { icon } from "./icons.js";
import { keys } from "./keys.js";
import { store } from "./store.js";

/**
 * A bar for `selection`, with its keys. `from()` is the group the images are of, or null; `first()` groups to
 * suggest; `selectAll` selects the whole list; `extra(rows)` gives further buttons. Call `remove()` at the end.
 */
export function selectionBar(selection, { from = () => null, first = () => [], selectAll = null, extra = () => [] } = {}) {
  const dock = document.getElementById("dock");
  const size = h("p", { class: "dock-size", role: "status" });
  const bar = h("div", { class: "dock", role: "group", "aria-label": "Selected images", hidden: true });
  dock.append(bar);

  const act = (work) => async () => {
    if (!selection.size || store.readOnly) return;
    if (await work(selection.list())) selection.clear();
  };
  const works = {
    move: act((rows) => moveRows(rows, { from: from(), first: first() })),
    confirm: act(confirmRows),
    wrong: act((rows) => markRows(rows, "wrong")),
    noise: act((rows) => markRows(rows, "noise")),
    clear: act((rows) => markRows(rows, null)),
  };
  const button = (sign, text, key, work, title) => h("button", { type: "button", class: "button", title: `${title} (${key})`, "aria-keyshortcuts": key, onclick: work }, icon(sign), h("span", {}, text));
  const buttons = store.readOnly
    ? []
    : [
        button("move", "Move to…", "M", works.move, "Move to another group"),
        h("span", { class: "dock-extra" }),
        button("confirm", "Confirm", "C", works.confirm, "They are where they belong"),
        button("wrong", "Wrong", "W", works.wrong, "They don't belong to this group"),
        button("noise", "Noise", "N", works.noise, "They belong nowhere"),
        button("clear", "Clear mark", "U", works.clear, "Take the mark away"),
      ];
  const all = selectAll && h("button", { type: "button", class: "link", onclick: selectAll }, "Select all");
  const close = h("button", { type: "button", class: "ghost square", "aria-label": "Select none", title: "Select none (Esc)", onclick: () => selection.clear() }, icon("close"));
  replace(bar, h("div", { class: "dock-head" }, size, all), h("div", { class: "dock-works" }, buttons), close);

  const draw = () => {
    bar.hidden = selection.size === 0;
    document.body.classList.toggle("docked", selection.size > 0);
    if (!selection.size) return;
    size.textContent = `${images(selection.size)} selected`;
    const place = bar.querySelector(".dock-extra");
    if (place) replace(place, extra(selection.list()));
  };
  selection.addEventListener("change", draw);
  draw();
  const unbind = keys.bind("With images selected, or one open", [
    ...(selectAll ? [{ key: "a", ctrl: true, text: "Select all", work: selectAll }] : []),
    { key: "Escape", also: "Esc", text: "Select none", work: () => selection.clear() },
    ...(store.readOnly
      ? []
      : [
          { key: "m", text: "Move to…", work: works.move },
          { key: "c", text: "Confirm: they belong here", work: works.confirm },
          { key: "w", text: "Mark as wrong", work: works.wrong },
          { key: "n", text: "Mark as noise", work: works.noise },
          { key: "u", text: "Clear the mark", work: works.clear },
        ]),
  ]);
  return {
    works,
    remove() {
      unbind();
      selection.removeEventListener("change", draw);
      document.body.classList.remove("docked");
      bar.remove();
    },
  };
}
