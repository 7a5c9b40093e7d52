// What can be done with the selected groups: a bar at the foot of the page while any are.

import { lockGroups, mergeGroups } from "./actions.js";
import { h, replace } from "./dom.js";
import { plural } from "./format.js";
import { icon } from "./icons.js";
import { keys } from "./keys.js";
import { store } from "./store.js";

/** A bar for a `selection` of groups, with its keys. Call `remove()` at the end. */
export function groupBar(selection) {
  const dock = document.getElementById("dock");
  const size = h("p", { class: "dock-size", role: "status" });
  const bar = h("div", { class: "dock groups", role: "group", "aria-label": "Selected groups", hidden: true });
  dock.append(bar);
  const act = (work) => async () => {
    if (selection.size && (await work(selection.list()))) selection.clear();
  };
  const all = () => selection.only(store.groups.keys());
  const works = {
    merge: act(mergeGroups),
    lock: act((ids) => lockGroups(ids, true)),
    unlock: act((ids) => lockGroups(ids, false)),
  };
  const button = (sign, text, key, work, title) => h("button", { type: "button", class: "button", title: `${title} (${key})`, "aria-keyshortcuts": key, onclick: work }, icon(sign), h("span", {}, text));
  replace(
    bar,
    h("div", { class: "dock-head" }, size, h("button", { type: "button", class: "link", onclick: all }, "Select all")),
    h("div", { class: "dock-works" }, button("merge", "Merge…", "M", works.merge, "Merge them into one group"), button("lock", "Lock", "L", works.lock, "They take no image and lose none"), button("unlock", "Unlock", "U", works.unlock, "They may change again")),
    h("button", { type: "button", class: "ghost square", "aria-label": "Select none", title: "Select none (Esc)", onclick: () => selection.clear() }, icon("close")),
  );
  const draw = () => {
    bar.hidden = selection.size === 0;
    document.body.classList.toggle("docked", selection.size > 0);
    size.textContent = `${plural(selection.size, "group")} selected`;
  };
  selection.addEventListener("change", draw);
  draw();
  const unbind = keys.bind("With groups selected", [
    { key: "a", ctrl: true, text: "Select all", work: all },
    { key: "Escape", also: "Esc", text: "Select none", work: () => selection.clear() },
    { key: "m", text: "Merge…", work: works.merge },
    { key: "l", text: "Lock", work: works.lock },
    { key: "u", text: "Unlock", work: works.unlock },
  ]);
  return {
    remove() {
      unbind();
      selection.removeEventListener("change", draw);
      document.body.classList.remove("docked");
      bar.remove();
    },
  };
}
