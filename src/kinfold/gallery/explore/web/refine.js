// Learning again from the corrections: what the classifier would now move, shown as a difference to accept.

import { edit } from "./actions.js";
import { get, post } from "./api.js";
import { h, keepFocus, replace } from "./dom.js";
import { count, images, percent, plural, sure } from "./format.js";
import { icon } from "./icons.js";
import { openImage } from "./image.js";
import { store } from "./store.js";
import { PagedList } from "./paged.js";
import { picture } from "./tile.js";
import { complain } from "./toasts.js";

const WAIT = 1000;
const PAGE = 500;
const TELLING = 0.7; // below, as `kinfold refine` warns too, proposals mean little

export async function mount(element) {
  const place = h("div", { class: "refine", tabindex: "-1" });
  element.append(
    h("header", { class: "page-head" }, h("h1", {}, "Refine"), h("p", { class: "lede" }, "The classifier learns again from your corrections, and proposes what else should move. Nothing changes until you accept it; images you placed, and locked groups, stay as they are.")),
    place,
  );
  const state = { chosen: null, least: 0, gone: false, timer: 0 };
  const draw = async () => {
    clearTimeout(state.timer);
    const answer = await get("api/refine", { offset: 0, limit: PAGE }).catch(complain);
    if (!answer || state.gone) return;
    keepFocus(place, () => replace(place, starter(answer, draw), answer.state === "running" ? [] : proposals(answer, state, draw)));
    if (answer.state === "running") state.timer = setTimeout(draw, WAIT);
  };
  const forget = store.onChange(draw);
  await draw();
  return {
    title: "Refine",
    unmount() {
      state.gone = true;
      clearTimeout(state.timer);
      forget();
    },
  };
}

function starter(answer, draw) {
  const running = answer.state === "running";
  const start = async () => {
    await post("api/refine").catch(complain);
    draw();
  };
  const has = Boolean(answer.proposals);
  return h(
    "div",
    { class: "starter" },
    !store.readOnly && h("button", { type: "button", class: `button${has ? "" : " primary"}`, disabled: running, onclick: start }, icon("refine"), h("span", {}, running ? "Learning…" : has ? "Learn again" : "Learn from corrections")),
    running && h("progress", { "aria-label": "Learning" }),
    h("p", { class: "soft", role: "status" }, answer.text ?? ""),
  );
}

function proposals(answer, state, draw) {
  const { proposals: proposed } = answer;
  if (!proposed) return [];
  if (proposed.facts.agreement === null) return h("p", { class: "notice" }, "Nothing is proposed, because you placed no image by hand yet: what a classifier would change in the model's own groups is as often wrong as right. Move, confirm or mark some images, then learn again.");
  if (!proposed.total) return h("p", { class: "nothing" }, "The classifier agrees with every group: nothing to move.");
  const changes = h("tbody", {});
  const shown = h("div", {});
  const pick = (change) => {
    state.chosen = state.chosen === key(change) ? null : key(change);
    redraw();
  };
  const all = h("span", {});
  const redraw = () => {
    const whole = proposed.total <= proposed.images.length;
    const n = whole ? proposed.images.filter(fits(state)).length : null;
    all.textContent = !state.least && !state.chosen ? `Accept all ${count(proposed.total)}` : whole ? `Accept these ${count(n)}` : "Accept all of these";
    keepFocus(changes, () => replace(changes, proposed.by_change.map((change) => changeRow(change, state, pick, () => accept({ ...state, chosen: key(change) }, draw)))));
    replace(shown, diff(proposed, state, draw));
  };
  redraw();
  const least = h("input", { type: "range", min: 0, max: 1, step: 0.01, value: state.least, "aria-label": "Least confidence" });
  const said = h("output", {}, sure(state.least));
  least.addEventListener("input", () => {
    state.least = least.valueAsNumber;
    said.textContent = sure(state.least);
    redraw();
  });
  return [
    h(
      "div",
      { class: "toolbar sticky" },
      h("h2", {}, plural(proposed.total, "proposal")),
      h("span", { class: "spring" }),
      h("label", { class: "inline" }, "At least", least, said),
      !store.readOnly && h("button", { type: "button", class: "button primary", onclick: () => accept(state, draw) }, icon("confirm"), all),
    ),
    proposed.facts.agreement < TELLING && h("p", { class: "notice" }, `Of images that it hasn't learned, the classifier puts only ${percent(proposed.facts.agreement)} into the group they are in: these features tell the groups badly apart. Take over only what you have looked at, or only the surest.`),
    proposed.facts.found_by_hand != null && h("p", { class: "soft" }, `Left out of the learning, ${percent(proposed.facts.found_by_hand)} of the images you placed are put where you placed them: a hint at how many of these proposals are right.`),
    h("div", { class: "diff" }, h("table", { class: "changes" }, h("thead", {}, h("tr", {}, ["From", "To", "Images", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr" }, "Accept"))))), changes), shown),
  ];
}

const key = ({ from, to }) => `${from} ${to}`;

function changeRow(change, state, pick, take) {
  const on = state.chosen === key(change);
  return h(
    "tr",
    { class: on ? "on" : "" },
    h("td", {}, store.label(change.from)),
    h("td", {}, h("button", { type: "button", class: "link", "aria-pressed": String(on), "aria-label": `Show what would go from ${store.label(change.from)} to ${store.label(change.to)}`, onclick: () => pick(change) }, store.label(change.to))),
    h("td", { class: "number" }, count(change.n)),
    h("td", {}, !store.readOnly && h("button", { type: "button", class: "button small", "aria-label": `Accept ${store.label(change.from)} to ${store.label(change.to)}`, onclick: take }, "Accept")),
  );
}

const fits = (state) => (one) => one.confidence >= state.least && (!state.chosen || key(one) === state.chosen);

function diff(proposed, state, draw) {
  const some = proposed.images.filter(fits(state));
  const list = new PagedList({ load: async (offset, limit) => ({ total: some.length, items: some.slice(offset, offset + limit) }) });
  list.total = some.length;
  const items = some.slice(0, 120).map((one, index) =>
    h(
      "li",
      { class: "proposal" },
      h("button", { type: "button", class: "near-image", title: one.key, "aria-label": `Open ${one.key}`, onclick: () => openImage(list, index, { first: () => [one.to] }) }, picture(one.row, one.key, 120)),
      h("p", { class: "small" }, h("span", { class: "soft key" }, store.label(one.from)), h("span", { class: "key" }, h("span", { "aria-hidden": "true" }, "→ "), h("span", { class: "sr" }, "to "), store.label(one.to)), h("b", {}, sure(one.confidence))),
      !store.readOnly && h("button", { type: "button", class: "button small", "aria-label": `Accept ${one.key}`, onclick: () => take([one], draw) }, "Accept"),
    ),
  );
  const rest = some.length > items.length || proposed.total > proposed.images.length;
  return [h("ul", { class: "proposals" }, items), rest && h("p", { class: "rest" }, `The surest ${images(items.length)} are shown here.`), !items.length && h("p", { class: "nothing" }, "None is that sure.")];
}

async function take(some, draw) {
  if (await edit({ kind: "accept", rows: some.map((one) => one.row), groups: some.map((one) => one.to) })) draw();
}

/** Accept all proposals that fit what is chosen; further pages are read for it. */
async function accept(state, draw) {
  const some = [];
  for (let offset = 0, total = 1; offset < total; offset += PAGE) {
    const answer = await get("api/refine", { offset, limit: PAGE }).catch(complain);
    if (!answer?.proposals) return;
    total = answer.proposals.total;
    some.push(...answer.proposals.images.filter(fits(state)));
  }
  if (some.length) await take(some, draw);
}
