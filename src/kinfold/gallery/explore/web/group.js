// One group: its images in a grid of any length, what can be done with it, and the groups it borders on.

import { edit, isSplitting, lockGroup, mergeGroup, renameGroup, splitGroup } from "./actions.js";
import { get } from "./api.js";
import { bordersPanel } from "./borders.js";
import { trace } from "./charts.js";
import { freshId, h, keepFocus, replace } from "./dom.js";
import { count, images, sure } from "./format.js";
import { icon } from "./icons.js";
import { openImage } from "./image.js";
import { ImageGrid } from "./imagegrid.js";
import { keys } from "./keys.js";
import { editableName } from "./naming.js";
import { pickGroup } from "./picker.js";
import { selectionBar } from "./selectionbar.js";
import { store } from "./store.js";
import { fitButton, sizeSlider, tileSize } from "./tilesize.js";
import { allRows, imageList } from "./lists.js";
import { complain } from "./toasts.js";

const SORTS = [
  ["confidence", "Most confident", "confidence"],
  ["doubt", "Most doubtful", "doubt"],
  ["distance", "Nearest the centre", "confidence"],
  ["typicality", "Least typical", "typicality"],
  ["key", "File name", "key"],
];
const MARKS = [
  ["", "All"],
  ["none", "Not marked"],
  ["wrong", "Wrong"],
  ["noise", "Noise"],
  ["stray", "Least typical 1 %"],
];
const chosen = { sort: "confidence", mark: "" };

export async function mount(element, { parameters, query }) {
  const id = Number(parameters[0]);
  let group = await get(`api/groups/${id}`);
  chosen.mark = "";
  if (query.get("sort")) chosen.sort = query.get("sort");

  const asked = () => ({ group: id, sort: chosen.sort, mark: chosen.mark });
  const head = h("header", { class: "group-head", tabindex: "-1" });
  const status = h("span", { class: "sr", role: "status" });
  const everything = h("button", { type: "button", class: "link" });
  const borders = h("aside", { class: "borders", tabindex: "-1", "aria-label": "Groups it borders on" });
  const grid = new ImageGrid({
    label: `Images of ${store.label(id)}`,
    load: imageList(asked),
    rows: () => allRows(asked()),
    open: (list, index) => openImage(list, index, { show: (at) => grid.show(at), first: () => neighbours(group) }),
    counted: (n) => {
      status.textContent = images(n);
      everything.textContent = `Select all ${count(n)}`;
      everything.hidden = n === 0;
    },
    size: tileSize(),
    caption: SORTS.find(([value]) => value === chosen.sort)[2],
  });
  grid.grid.above = 130;
  grid.grid.below = 90;
  const selectAll = async () => grid.selection.only((await allRows(asked()).catch(complain)) ?? []);
  everything.addEventListener("click", selectAll);
  const bar = selectionBar(grid.selection, { from: () => id, first: () => neighbours(group), selectAll });
  let drawn = null;
  const draw = () => {
    if (drawn === group || head.querySelector("input")) return; // who writes a name is left in peace until it is done
    drawn = group;
    keepFocus(head, () => replace(head, heading(group, draw)));
    keepFocus(borders, () => replace(borders, bordersPanel(group)));
  };
  let gone = false;
  const again = async () => {
    if (!store.groups.has(id)) {
      location.hash = "#/";
      return;
    }
    const found = await get(`api/groups/${id}`).catch(complain);
    if (gone || !found) return;
    group = found;
    draw();
    await grid.refresh();
  };
  element.append(h("div", { class: "group-page" }, h("div", { class: "group-main" }, head, toolbar(grid, status, everything), grid.element), borders));
  draw();
  const forget = store.onChange(again);
  const busy = () => {
    drawn = null;
    draw();
  };
  store.addEventListener("busy", busy);
  const unbind = bindKeys(() => group, head);
  await grid.start();
  return {
    title: store.label(id),
    unmount() {
      gone = true;
      store.removeEventListener("busy", busy);
      forget();
      unbind();
      bar.remove();
      grid.destroy();
    },
  };
}

const neighbours = (group) => (group.borders ?? []).map((one) => one.id);

function heading(group, closed) {
  const name = editableName({ value: group.name, shown: store.label(group.id), save: (text) => renameGroup(group.id, text), closed, readOnly: store.readOnly });
  const parts = [
    group.name && `Group ${group.id}`,
    images(group.size),
    group.n_wrong > 0 && `${count(group.n_wrong)} wrong`,
    group.n_noise > 0 && `${count(group.n_noise)} noise`,
    group.origin !== null && group.origin !== undefined && `split from ${store.label(group.origin)}`,
  ].filter(Boolean);
  const words = group.words?.length ? h("p", { class: "soft words" }, group.words.map(wordText).join(" · ")) : null;
  return [
    h("div", { class: "group-title" }, h("a", { class: "crumb", href: "#/" }, icon("left"), "Groups"), name, h("p", { class: "lede" }, parts.map((part, k) => [k > 0 && h("span", { "aria-hidden": "true" }, " · "), part])), words),
    h("div", { class: "group-sure" }, trace(group.histogram), h("p", {}, h("b", {}, sure(group.size ? group.mean_confidence : null)), h("span", { class: "soft" }, " mean confidence"))),
    works(group),
  ];
}

const wordText = (word) => (typeof word === "string" ? word : (word.noun ?? word.name ?? ""));

function works(group) {
  const button = (sign, text, key, work, off = false) => h("button", { type: "button", class: "button", title: key ? `${text} (${key})` : text, disabled: off, onclick: work }, icon(sign), h("span", {}, text));
  const compare = h("a", { class: "button", href: "#/compare", onclick: (event) => (event.preventDefault(), compareWith(group)) }, icon("compare"), h("span", {}, "Compare…"));
  if (store.readOnly) return h("div", { class: "works" }, compare);
  const lock = button(group.locked ? "unlock" : "lock", group.locked ? "Unlock" : "Lock", "L", () => lockGroup(group.id, !group.locked));
  lock.dataset.focus = "lock";
  return h(
    "div",
    { class: "works", role: "group", "aria-label": "The whole group" },
    compare,
    button("merge", "Merge into…", "", () => merge(group), group.locked),
    button("split", isSplitting(group.id) ? "Splitting…" : "Split…", "", () => splitGroup(group.id), isSplitting(group.id) || group.locked || group.size < 2),
    lock,
    button("confirm", "Confirm all", "", () => confirmAll(group)),
  );
}

async function merge(group) {
  const into = await mergeGroup(group.id, { first: neighbours(group) });
  if (into !== null) location.hash = `#/group/${into}`;
}

async function confirmAll(group) {
  const rows = await allRows({ group: group.id, sort: "row" }).catch(complain);
  if (rows?.length) await edit({ kind: "confirm", rows });
}

async function compareWith(group) {
  const other = await pickGroup({ title: `Compare “${store.label(group.id)}” with`, first: neighbours(group), without: [group.id] });
  if (other) location.hash = `#/compare/${group.id}/${other.group}`;
}

function toolbar(grid, status, everything) {
  const offered = ([value]) => store.run.has_typicality || !["typicality", "stray"].includes(value);
  const sort = h("select", { id: freshId("sort") }, SORTS.filter(offered).map(([value, text]) => h("option", { value, selected: value === chosen.sort }, text)));
  const mark = h("select", { id: freshId("mark") }, MARKS.filter(offered).map(([value, text]) => h("option", { value }, text)));
  const change = () => {
    Object.assign(chosen, { sort: sort.value, mark: mark.value });
    grid.caption = SORTS.find(([value]) => value === sort.value)[2];
    grid.start();
  };
  sort.addEventListener("change", change);
  mark.addEventListener("change", change);
  return h(
    "div",
    { class: "toolbar sticky" },
    status,
    everything,
    h("span", { class: "spring" }),
    h("label", { class: "inline", for: mark.id }, h("span", { class: "said" }, "Show"), mark),
    h("label", { class: "inline", for: sort.id }, h("span", { class: "said" }, "Sort by"), sort),
    fitButton(),
    sizeSlider((size) => grid.setSize(size)),
  );
}

function bindKeys(group, head) {
  const near = (step) => {
    const ids = [...store.groups.keys()];
    const to = ids[ids.indexOf(group().id) + step];
    if (to !== undefined) location.hash = `#/group/${to}`;
  };
  return keys.bind("In a group", [
    { key: "]", text: "Next group", work: () => near(1) },
    { key: "[", text: "Previous group", work: () => near(-1) },
    ...(store.readOnly
      ? []
      : [
          { key: "r", text: "Rename", work: () => head.querySelector(".rename")?.click() },
          { key: "l", text: "Lock or unlock", work: () => lockGroup(group().id, !group().locked) },
        ]),
  ]);
}
