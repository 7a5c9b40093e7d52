// All groups: what the run is, two charts, and a card for every group.

import { get } from "./api.js";
import { CardGrid } from "./cards.js";
import { confidenceChart, sizesChart } from "./charts.js";
import { chooseButton } from "./drop.js";
import { freshId, h, paused, replace } from "./dom.js";
import { count, plural, sure } from "./format.js";
import { store } from "./store.js";
import { complain } from "./toasts.js";

const SORTS = [
  ["size", "Size", "desc"],
  ["confidence", "Confidence", "desc"],
  ["name", "Name", "asc"],
  ["similarity", "Similarity", "asc"],
  ["number", "Number", "asc"],
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
  const total = h("span", { class: "soft", role: "status" });
  const cards = new CardGrid({ query: () => chosen, counted: (n) => (total.textContent = plural(n, "group")) });
  const empty = h("p", { class: "rest" });
  const figures = h("dl", { class: "figures" });
  element.append(
    h("div", { class: "hero" }, h("div", { class: "hero-text" }, h("h1", {}, store.run.title), lede(), figures), charts),
    about(),
    h("section", { "aria-label": "All groups" }, toolbar(cards, total), cards.element, empty),
  );
  const draw = async () => {
    const drawn = await get("/api/charts").catch(complain);
    if (!drawn) return;
    replace(charts, sizesChart(drawn.sizes, (id) => store.label(id)), confidenceChart(drawn.histogram));
    replace(figures, headline(drawn));
    empty.textContent = emptyGroups(drawn.sizes);
  };
  const forget = store.onChange(() => Promise.all([cards.refresh(), draw()]));
  await Promise.all([cards.start(), draw()]);
  return {
    title: "Groups",
    unmount() {
      forget();
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
  const metrics = Object.entries(store.run.metrics ?? {}).filter(([, value]) => typeof value === "number").slice(0, 3);
  const one = (name, value, href = null) => h("div", {}, h("dt", {}, name), h("dd", {}, href ? h("a", { class: "link", href }, value) : value));
  return [
    one("Images", count(store.run.n_images)),
    one("Groups", count(sizes.filter((group) => group.size).length)),
    one("Mean confidence", sure(mean)),
    store.run.n_skipped > 0 && one("Skipped", count(store.run.n_skipped), "#/skipped"),
    ...metrics.map(([name, value]) => one(metricName(name), sure(value))),
  ];
}

const metricName = (name) => ({ accuracy: "Accuracy", nmi: "NMI", ari: "ARI", ami: "AMI" })[name] ?? name.replaceAll("_", " ");

function emptyGroups(sizes) {
  const ids = sizes.filter((group) => !group.size).map((group) => store.label(group.id));
  if (!ids.length) return "";
  const more = ids.length - 12;
  return `${plural(ids.length, "group is", "groups are")} empty: ${ids.slice(0, 12).join(", ")}${more > 0 ? ` and ${count(more)} more` : ""}.`;
}

function about() {
  if (!store.run.facts?.length) return null;
  const facts = store.run.facts.map(({ name, value }) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
  return h("details", { class: "about" }, h("summary", {}, "How it was made"), h("dl", {}, facts));
}

function toolbar(cards, total) {
  const sort = h("select", { id: freshId("sort") }, SORTS.map(([value, text]) => h("option", { value, selected: value === chosen.sort }, text)));
  const order = h("button", { type: "button", class: "button small" });
  const find = h("input", { type: "search", class: "small-field", placeholder: "Filter by name or number", "aria-label": "Filter groups by name or number", spellcheck: "false", autocomplete: "off" });
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
  return h("div", { class: "toolbar sticky" }, h("h2", {}, "Groups"), total, h("span", { class: "spring" }), chooseButton(), find, h("label", { class: "inline", for: sort.id }, "Sort by", sort), order);
}
