// Cards of a level that the run doesn't have yet: which group each comes from, or which it joins, and how they got there.

import { get } from "./api.js";
import { mosaicOf, TEXT, WORDS } from "./cards.js";
import { h, setCss } from "./dom.js";
import { count, images } from "./format.js";
import { icon } from "./icons.js";
import { PagedList } from "./paged.js";
import { store } from "./store.js";
import { release } from "./tile.js";
import { complain } from "./toasts.js";
import { VirtualGrid } from "./virtual.js";

const MOVE = 320; // milliseconds
const MOST_GHOSTS = 40;

/** "3: cats", or "3" for a group without name. */
export const origin = ({ id, name }) => (name ? `${id}: ${name}` : `${id}`);

/** What a group of a level is to the groups of now, in words. */
export function relation({ kind, from, n_from }) {
  if (kind === "same") return from[0].name || `Group ${from[0].id}`;
  if (kind === "part") return `from ${origin(from[0])}`;
  const more = n_from - from.length;
  return `joins ${from.map(origin).join(", ")}${more > 0 ? ` and ${count(more)} more` : ""}`;
}

const SIGNS = { part: "split", join: "merge" };

function levelCard(group, width, family) {
  const words = relation(group);
  const inside = [
    mosaicOf(group, width),
    h(
      "span",
      { class: "card-text" },
      h("span", { class: "card-title" }, SIGNS[group.kind] && h("span", { class: "flag" }, icon(SIGNS[group.kind])), h("b", { class: "ellipsis", title: words }, words)),
      h("span", { class: "card-line soft" }, h("span", {}, images(group.size)), h("span", {}, group.kind === "same" ? "stays" : "")),
    ),
  ];
  const classes = `card-place level-card ${group.kind}${family.joined ? " family" : ""}${family.odd ? " odd" : ""}`;
  const data = { level: group.group };
  if (group.kind === "same") return h("li", { class: classes, data }, h("a", { class: "card", href: `#/group/${group.from[0].id}` }, inside));
  return h("li", { class: classes, data }, h("span", { class: "card" }, inside));
}

export class LevelCards {
  #level = null;
  #was = null;
  #counts = null;

  constructor() {
    this.canvas = h("ul", { class: "cards level-cards", "aria-label": "Groups of the level that is looked at" });
    this.element = h("div", {}, this.canvas);
    this.list = new PagedList({
      size: 100,
      load: async (offset, limit) => {
        const { total, groups, counts } = await get(`api/levels/${this.#level}`, { was: this.#was, offset, limit });
        this.#counts = counts;
        return { total, items: groups };
      },
      counted: (total) => this.grid.setTotal(total),
      loaded: () => this.grid.refresh(),
      failed: complain,
    });
    const narrow = window.innerWidth < 600;
    this.grid = new VirtualGrid({
      canvas: this.canvas,
      minWidth: narrow ? 150 : 232,
      gap: narrow ? 12 : 16,
      height: (width) => TEXT + (store.run.has_images ? Math.round(width < 200 ? (2 * width) / 3 : width / 2) : WORDS),
      make: (index) => this.#card(index),
      drop: release,
      range: (...range) => this.list.want(...range),
    });
    setCss(this.canvas, { "--gap-between": `${this.grid.gap}px` });
  }

  #card(index) {
    const group = this.list.at(index);
    if (!group) return h("li", { class: "card-place" }, h("span", { class: "card blank" }));
    const next = this.list.at(index + 1);
    const family = group.from[0].id;
    return levelCard(group, this.grid.itemWidth, { odd: family % 2 === 1, joined: group.kind === "part" && next?.kind === "part" && next.from[0].id === family });
  }

  /**
   * Show the level of `n` groups. `from` are the cards that are shown now, `group -> element`, and `was` their level: cards
   * move from there. Resolves to how many groups stay, are divided and join.
   */
  async show(n, was, from) {
    const before = new Map([...from].map(([group, element]) => [group, { element, box: element.getBoundingClientRect() }]));
    this.#level = n;
    this.#was = was;
    await this.list.reset();
    this.grid.refresh();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#move(before);
    return this.#counts;
  }

  /** The cards in the page by the number of their group. */
  cards() {
    return new Map([...this.grid.elements.values()].filter((element) => element.dataset.level).map((element) => [Number(element.dataset.level), element]));
  }

  // A card begins where the group was that it comes from; of several that join, the others fly to it and are gone.
  #move(before) {
    const canvas = this.canvas.getBoundingClientRect();
    const timing = { duration: MOVE, easing: "cubic-bezier(.2, .7, .3, 1)" };
    let ghosts = 0;
    for (const [index, element] of this.grid.elements) {
      const [first, ...others] = (this.list.at(index)?.was ?? []).map((group) => before.get(group)).filter((one) => one?.box.width);
      if (!first) continue;
      const { x, y } = this.grid.position(index);
      const place = `translate(${x}px, ${y}px)`;
      const start = ({ box }) => `translate(${box.left - canvas.left}px, ${box.top - canvas.top}px)`;
      element.animate([{ transform: start(first) }, { transform: place }], timing);
      for (const other of others) {
        if ((ghosts += 1) > MOST_GHOSTS) break;
        const ghost = other.element.cloneNode(true);
        ghost.setAttribute("aria-hidden", "true");
        ghost.setAttribute("inert", "");
        this.canvas.append(ghost);
        ghost.animate([{ transform: start(other), opacity: 1 }, { transform: place, opacity: 0 }], timing).finished.finally(() => ghost.remove());
      }
    }
  }

  destroy() {
    this.grid.destroy();
  }
}
