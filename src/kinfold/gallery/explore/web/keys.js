// The page's keys: what each does now, and the list of them that `?` shows.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";

const bound = []; // {key, ctrl, shift, work, when, text, group, dialogs}

function matches(binding, event) {
  const ctrl = event.ctrlKey || event.metaKey;
  if (Boolean(binding.ctrl) !== ctrl || event.altKey) return false;
  if (binding.shift !== undefined && binding.shift !== event.shiftKey) return false;
  return event.key.toLowerCase() === binding.key.toLowerCase();
}

export const keys = {
  /**
   * Bind keys until the returned function is called. Each is `{key, text, work}`; `ctrl`, `shift`; `also` another way to
   * say the key in the list. Later bindings come first.
   */
  bind(group, bindings) {
    const added = bindings.map((binding) => ({ group, ...binding }));
    bound.push(...added);
    return () => {
      for (const binding of added) bound.splice(bound.indexOf(binding), 1);
    };
  },

  press(event, inDialog) {
    for (const binding of [...bound].reverse()) {
      if (inDialog && !binding.dialogs) continue;
      if (!binding.work || !matches(binding, event)) continue;
      event.preventDefault();
      binding.work(event);
      return;
    }
  },
};

// What other views bind, shown wherever one asks.
const ELSEWHERE = [
  [
    "In a group",
    [
      ["]", "Next group"],
      ["[", "Previous group"],
      ["R", "Rename"],
      ["L", "Lock or unlock"],
    ],
  ],
  [
    "With groups selected",
    [
      ["M", "Merge…"],
      ["L", "Lock"],
      ["U", "Unlock"],
      ["Ctrl + A", "Select all"],
      ["Esc", "Select none"],
    ],
  ],
  [
    "With images selected, or one open",
    [
      ["M", "Move to…"],
      ["C", "Confirm: they belong here"],
      ["W", "Mark as wrong"],
      ["N", "Mark as noise"],
      ["U", "Clear the mark"],
      ["Ctrl + A", "Select all"],
      ["Esc", "Select none"],
    ],
  ],
  [
    "With an image open",
    [
      ["←", "Previous image"],
      ["→", "Next image"],
      ["S", "Find similar"],
    ],
  ],
];
const GRID = [
  ["← ↑ → ↓", "Go from one to the next"],
  ["Space", "Select or unselect"],
  ["Shift + arrows", "Select on the way"],
  ["Enter", "Open"],
];
const MOUSE = [
  ["Click", "Open; once some are selected, select"],
  ["Ctrl + click", "Select one more"],
  ["Shift + click", "Select all up to here"],
  ["Drag", "Select with a box"],
];

function spoken(binding) {
  const key = binding.also ?? (binding.key === " " ? "Space" : binding.key.length === 1 ? binding.key.toUpperCase() : binding.key);
  return [binding.ctrl && "Ctrl", binding.shift && "Shift", key].filter(Boolean).join(" + ");
}

/** Open the list of keys. */
export function showKeys() {
  const groups = new Map();
  for (const binding of bound) {
    if (!binding.text) continue;
    if (!groups.has(binding.group)) groups.set(binding.group, new Map());
    groups.get(binding.group).set(spoken(binding), binding.text);
  }
  const sets = [...groups].map(([name, entries]) => [name, [...entries]]);
  sets.push(...ELSEWHERE.filter(([name]) => !groups.has(name)));
  sets.push(["In a grid of groups or images", GRID], ["With the mouse", MOUSE]);
  openDialog({
    title: "Keys",
    className: "wide",
    body: h(
      "div",
      { class: "key-sets" },
      sets.map(([name, entries]) =>
        h("section", {}, h("h3", {}, name), h("dl", {}, entries.map(([key, text]) => h("div", {}, h("dt", {}, key.split(" + ").map((part) => h("kbd", {}, part))), h("dd", {}, text))))),
      ),
    ),
  });
}
