// @ts-check
// All groups: what the run is, two charts, and a card for every group.

import { get } from "./api.js";
import { CardGrid } from "./cards.js";
import { confidenceChart, sizesChart } from "./charts.js";
import { chooseButton } from "./drop.js";
import { groupBar } from "./groupbar.js";
import { levelControl } from "./levels.js";
import { Selection } from "./selection.js";
import { freshId, h, paused, replace } from "./dom.js";
import { count, images, plural, sure } from "./format.js";
import { store } from "./store.js";
import { fitButton } from "./tilesize.js";
import { complain } from "./toasts.js";

const SORTS = [
  ["size", "Size", "desc"],
  ["confidence", "Confidence", "desc"],
  ["name", "Name", "asc"],
  ["similarity", "Similarity", "asc"],
  ["number", "Number", "asc"],
];
// What was measured against labels, if it was.
const METRICS = [
  ["accuracy", "Accuracy"],
  ["nmi", "NMI"],
  ["ari", "ARI"],
];
const KEPT = "kinfold.groups";

// What was chosen last holds until the tab closes.
const chosen = { sort: "size", order: "desc", q: "" };
try {
  Object.assign(chosen, JSON.parse(sessionStorage.getItem(KEPT) ?? "{}"), { q: "" });
} catch {
  // Then the defaults hold.
}

export async function mount(element) {
  const charts = h("section", { class: "charts", "aria-label": "Distributions" });
  const total = h("span", { role: "status" });
  const selection = new Selection();
  const cards = new CardGrid({ selection, query: () => chosen, counted: (n) => (total.textContent = plural(n, "group")) });
  const empty = h("p", { class: "rest" });
  const title = h("h1");
  const figures = h("dl", { class: "figures" });
  const groups = h("section", { "aria-label": "All groups" }, toolbar(cards, total), cards.element, empty);
  const levels = await levelControl(cards, groups);
  element.append(
    h("div", { class: "hero" }, h("div", { class: "hero-text" }, title, lede(), figures), charts),
    ...(store.run.images_trouble ? [h("p", { class: "notice" }, `The images can't be shown: ${store.run.images_trouble}`)] : []),
    ...about(),
    ...(levels ? [levels.element, levels.preview].filter(Boolean) : []),
    groups,
  );
  levels?.arrive();
  const draw = async () => {
    const drawn = await get("api/charts").catch(complain);
    if (!drawn) return;
    replace(charts, sizesChart(drawn.sizes.filter((group) => group.size), (id) => store.label(id)), confidenceChart(drawn.histogram));
    replace(figures, headline(drawn));
    title.textContent = `${images(store.run.n_images)} in ${plural(drawn.sizes.length, "group")}`;
    empty.textContent = emptyGroups(drawn.sizes);
  };
  const bar = store.readOnly ? null : groupBar(selection);
  const forget = store.onChange(() => {
    selection.only(selection.list().filter((id) => store.groups.has(id)));
    return Promise.all([cards.refresh(), draw()]);
  });
  await Promise.all([cards.start(), draw()]);
  return {
    title: "Groups",
    unmount() {
      forget();
      bar?.remove();
      levels?.destroy();
      cards.destroy();
    },
  };
}

function lede() {
  const { path, backbone, method, seed } = store.run;
  const words = [backbone, method, seed !== null && seed !== undefined && `seed ${seed}`].filter(Boolean);
  return h("p", { class: "lede" }, h("span", { class: "key" }, path), words.map((word) => [h("span", { "aria-hidden": "true" }, " · "), String(word)]));
}

function headline({ histogram, sizes }) {
  const steps = histogram.length;
  const n = histogram.reduce((sum, one) => sum + one, 0);
  const mean = n ? histogram.reduce((sum, one, k) => sum + one * ((k + 0.5) / steps), 0) / n : null;
  const metrics = METRICS.filter(([key]) => typeof store.run.metrics?.[key] === "number");
  const one = (name, value, href = null) => h("div", {}, h("dt", {}, name), h("dd", {}, href ? h("a", { class: "link", href }, value) : value));
  return [
    one("Median size", count(median(sizes.map((group) => group.size).filter(Boolean)))),
    one("Mean confidence", sure(mean)),
    store.run.n_skipped > 0 && one("Skipped", count(store.run.n_skipped), "#/skipped"),
    ...metrics.map(([key, name]) => one(name, sure(store.run.metrics[key]))),
  ];
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

function emptyGroups(sizes) {
  const ids = sizes.filter((group) => !group.size).map((group) => store.label(group.id));
  if (!ids.length) return "";
  const more = ids.length - 12;
  return `${plural(ids.length, "group is", "groups are")} empty: ${ids.slice(0, 12).join(", ")}${more > 0 ? ` and ${count(more)} more` : ""}.`;
}

function about() {
  if (!store.run.facts?.length) return [];
  const sets = new Map();
  for (const { section = "", name, value } of store.run.facts) {
    if (!sets.has(section)) sets.set(section, []);
    sets.get(section).push([name.startsWith(`${section}: `) ? name.slice(section.length + 2) : name, value]);
  }
  const drawn = [...sets].map(([section, facts]) => h("section", {}, section && h("h3", {}, section), h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))))));
  return [h("details", { class: "about" }, h("summary", {}, "How it was made"), h("div", { class: "fact-sets" }, drawn))];
}

function toolbar(cards, total) {
  const sort = h("select", { id: freshId("sort") }, SORTS.map(([value, text]) => h("option", { value, selected: value === chosen.sort }, text)));
  const order = h("button", { type: "button", class: "button" });
  const find = h("input", { type: "search", class: "small-field", placeholder: "Filter groups", "aria-label": "Filter groups by name or number", spellcheck: "false", autocomplete: "off" });
  const words = { size: ["smallest first", "largest first"], confidence: ["least sure first", "surest first"], name: ["A to Z", "Z to A"], similarity: ["forwards", "backwards"], number: ["ascending", "descending"] };
  const draw = () => (order.textContent = words[chosen.sort][chosen.order === "desc" ? 1 : 0]);
  const keep = () => {
    draw();
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ sort: chosen.sort, order: chosen.order }));
    } catch {
      // Then it holds for this page alone.
    }
    cards.start();
  };
  sort.addEventListener("change", () => {
    chosen.sort = sort.value;
    chosen.order = SORTS.find(([value]) => value === sort.value)[2];
    keep();
  });
  order.addEventListener("click", () => {
    chosen.order = chosen.order === "desc" ? "asc" : "desc";
    keep();
  });
  chosen.q = "";
  find.addEventListener("input", paused(() => {
    chosen.q = find.value.trim();
    cards.start();
  }));
  draw();
  return h("div", { class: "toolbar sticky" }, h("h2", {}, total), h("span", { class: "spring" }), chooseButton(), fitButton(), find, h("label", { class: "inline", for: sort.id }, h("span", { class: "said" }, "Sort by"), sort), order);
}
