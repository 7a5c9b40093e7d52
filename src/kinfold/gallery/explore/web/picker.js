// Choosing a group: a field that searches by name or number, and the list under it.

import { thumb } from "./api.js";
import { openDialog } from "./dialogs.js";
import { freshId, h, replace } from "./dom.js";
import { brief } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";

const SHOWN = 60;

/**
 * Ask for a group. `first` are ids to suggest, `without` ids left out, `fresh` whether a new group may be made,
 * `preselect` whether Enter takes the first one before anything is typed. `text` is said above the field.
 * Resolves to `{group: id}`, `{group: null, name}` for a new one, or undefined.
 */
export function pickGroup({ title, text = "", first = [], without = [], fresh = false, preselect = false }) {
  const left = new Set(without);
  return openDialog({ title, className: "picker", body: (close) => [text && h("p", { class: "soft small" }, text), ...build(close, { first: first.filter((id) => !left.has(id)), left, fresh, preselect })].filter(Boolean) });
}

function build(close, { first, left, fresh, preselect }) {
  const listId = freshId("list");
  const field = h("input", {
    type: "text",
    role: "combobox",
    class: "wide",
    placeholder: "Name or number of a group",
    "aria-label": "Search groups",
    "aria-controls": listId,
    "aria-expanded": "true",
    "aria-autocomplete": "list",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
  });
  const list = h("ul", { id: listId, role: "listbox", class: "options", "aria-label": "Groups", tabindex: "0" });
  const none = h("p", { class: "soft", role: "status" });
  let active = -1;

  // While nothing is typed no group is marked: Enter must not move images into whichever comes first.
  const mark = (index) => {
    active = Math.min(index, list.children.length - 1);
    [...list.children].forEach((option, k) => option.setAttribute("aria-selected", String(k === active)));
    const option = list.children[active];
    if (option) field.setAttribute("aria-activedescendant", option.id);
    else field.removeAttribute("aria-activedescendant");
    option?.scrollIntoView({ block: "nearest" });
  };
  const show = () => {
    const typed = field.value.trim();
    const options = matching(typed, first, left).map((group) => groupOption(group, close));
    if (fresh) options.splice(typed ? options.length : 0, 0, newOption(typed, close));
    replace(list, options);
    none.textContent = options.length ? "" : typed ? "No group is called that." : "There is no other group.";
    mark(typed || preselect ? 0 : -1);
  };
  field.addEventListener("input", show);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step) {
      event.preventDefault();
      mark(Math.max(0, active + step));
    } else if (event.key === "Enter") {
      event.preventDefault();
      const option = list.children[active];
      if (option && option.getAttribute("aria-disabled") !== "true") option.click();
    }
  });
  show();
  return [field, none, list];
}

/** Groups by how well they fit the words: suggested ones first while nothing is typed. */
function matching(typed, first, left) {
  const all = [...store.groups.values()].filter((group) => !left.has(group.id));
  const words = typed.toLowerCase();
  if (!words) {
    const rank = new Map(first.map((id, k) => [id, k]));
    const place = (group) => rank.get(group.id) ?? first.length;
    return all.sort((a, b) => place(a) - place(b) || b.size - a.size).slice(0, SHOWN);
  }
  const number = words.replace(/^group\s*/, "");
  const score = (group) => {
    const name = (group.name ?? "").toLowerCase();
    if (name === words || String(group.id) === number) return 0;
    if (name.startsWith(words)) return 1;
    if (name.includes(words)) return 2;
    return number && String(group.id).startsWith(number) ? 3 : 9;
  };
  return all
    .map((group) => [score(group), group])
    .filter(([fit]) => fit < 9)
    .sort((a, b) => a[0] - b[0] || b[1].size - a[1].size)
    .slice(0, SHOWN)
    .map(([, group]) => group);
}

function groupOption(group, close) {
  const rows = group.representatives?.slice(0, 3) ?? [];
  return h(
    "li",
    {
      id: freshId("option"),
      role: "option",
      class: "option",
      "aria-disabled": group.locked ? "true" : null,
      onclick: () => !group.locked && close({ group: group.id }),
    },
    h("span", { class: "option-thumbs", "aria-hidden": "true" }, rows.map((row) => store.run.has_images && h("img", { src: thumb(row, 32), alt: "", width: 32, height: 32 }))),
    h("span", { class: "option-name" }, store.label(group.id), group.name && h("span", { class: "soft" }, ` Group ${group.id}`)),
    group.locked && h("span", { class: "soft with-icon" }, icon("lock"), "locked"),
    h("span", { class: "soft number" }, brief(group.size)),
  );
}

function newOption(typed, close) {
  return h(
    "li",
    { id: freshId("option"), role: "option", class: "option fresh", onclick: () => close({ group: null, name: typed || null }) },
    h("span", { class: "option-thumbs plus", "aria-hidden": "true" }, "+"),
    h("span", { class: "option-name" }, typed ? `New group “${typed}”` : "New group"),
  );
}
