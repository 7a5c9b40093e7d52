// The groups of all levels as a tree: coarse ones, the current groups within them, and their parts. Read branch by branch.

import { get } from "./api.js";
import { h } from "./dom.js";
import { count, images, plural } from "./format.js";
import { icon } from "./icons.js";
import { origin, relation } from "./levelcards.js";
import { store } from "./store.js";
import { picture } from "./tile.js";
import { complain } from "./toasts.js";

const PAGE = 100;

export async function mount(element) {
  const tree = new Tree();
  element.append(
    h("header", { class: "page-head" }, h("h1", {}, "Tree of groups"), h("p", { class: "lede" }, "From coarse to fine: groups that join several current ones, the current groups, which are marked, and their parts.")),
    tree.element,
  );
  const forget = store.onChange(() => tree.start());
  await tree.start();
  return { title: "Tree", unmount: forget };
}

class Tree {
  #nodes = new WeakMap(); // item -> node
  #opened = null; // names of the nodes that are open; null before the first

  constructor() {
    this.element = h("ul", { class: "tree", role: "tree", "aria-label": "Groups from coarse to fine" });
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("click", (event) => this.#click(event));
  }

  /** Read the coarsest groups, and open them; later what was open. */
  async start() {
    const held = this.element.contains(document.activeElement);
    const here = this.element.querySelector('[tabindex="0"]')?.dataset.node;
    this.element.replaceChildren();
    const first = !this.#opened;
    this.#opened ??= new Set();
    await this.#fill(this.element, null, 1);
    if (first) await Promise.all([...this.element.children].map((item) => this.#open(item)));
    const item = (here && this.element.querySelector(`[data-node="${here}"]`)) ?? this.element.querySelector('[role="treeitem"]');
    if (item) item.tabIndex = 0;
    if (held) item?.focus({ preventScroll: true });
  }

  /** Add the next page of a node's children to `list`. */
  async #fill(list, node, level) {
    const offset = list.childElementCount;
    const asked = node ? { layer: node.layer, group: node.group } : {};
    const { total, nodes } = await get("api/tree", { ...asked, offset, limit: PAGE });
    const items = nodes.map((one, k) => this.#item(one, level, offset + k + 1, total));
    list.append(...items);
    await Promise.all(items.filter((item) => this.#opened.has(item.dataset.node)).map((item) => this.#open(item)));
    const left = total - list.childElementCount;
    if (left > 0) list.append(this.#more(list, node, level, left));
  }

  #more(list, node, level, left) {
    const item = h("li", { role: "treeitem", class: "tree-more", "aria-level": level, tabindex: "-1" }, h("span", { class: "tree-row link" }, `${count(left)} more`));
    this.#nodes.set(item, {
      more: async () => {
        const held = item.contains(document.activeElement);
        item.remove();
        const at = list.childElementCount;
        await this.#fill(list, node, level);
        if (held) this.#focus(list.children[at]);
      },
    });
    return item;
  }

  #item(node, level, position, total) {
    const words = words_of(node);
    const item = h(
      "li",
      { role: "treeitem", class: node.kind, "aria-level": level, "aria-posinset": position, "aria-setsize": total, "aria-expanded": node.n_children ? "false" : null, "aria-label": `${words}, ${images(node.size)}${node.kind === "same" ? ", a current group" : ""}`, tabindex: "-1", data: { node: `${node.layer}-${node.group}` } },
      h(
        "div",
        { class: "tree-row" },
        h("span", { class: "tree-sign" }, node.n_children > 0 && icon("right")),
        h("span", { class: "tree-pictures", "aria-hidden": "true" }, node.representatives.map((row) => h("span", { class: "cell" }, picture(row, "", 44, { loading: "lazy" })))),
        h("span", { class: "tree-text" }, node.kind === "same" ? h("a", { class: "link ellipsis", href: `#/group/${node.from[0].id}`, tabindex: "-1" }, words) : h("span", { class: "ellipsis", title: words }, words), h("span", { class: "soft small" }, note_of(node))),
      ),
    );
    this.#nodes.set(item, node);
    return item;
  }

  async #open(item) {
    const node = this.#nodes.get(item);
    if (!node?.n_children || item.getAttribute("aria-expanded") === "true") return;
    item.setAttribute("aria-expanded", "true");
    this.#opened.add(item.dataset.node);
    if (item.querySelector(':scope > [role="group"]')) return;
    const list = h("ul", { role: "group" });
    item.append(list);
    try {
      await this.#fill(list, node, Number(item.getAttribute("aria-level")) + 1);
    } catch (error) {
      list.remove();
      this.#close(item);
      complain(error);
    }
  }

  #close(item) {
    item.setAttribute("aria-expanded", "false");
    this.#opened.delete(item.dataset.node);
  }

  async #toggle(item) {
    const node = this.#nodes.get(item);
    if (node?.more) return node.more();
    if (item.getAttribute("aria-expanded") === "true") this.#close(item);
    else await this.#open(item);
    return undefined;
  }

  #click(event) {
    if (event.target.closest("a")) return;
    const item = event.target.closest(".tree-row")?.parentElement;
    if (!item) return;
    this.#focus(item);
    this.#toggle(item);
  }

  /** The items that can be seen, from the top. */
  #seen() {
    return [...this.element.querySelectorAll('[role="treeitem"]')].filter((item) => !item.parentElement.closest('[aria-expanded="false"]'));
  }

  #focus(item) {
    if (!item) return;
    for (const one of this.element.querySelectorAll('[tabindex="0"]')) one.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
    item.querySelector(".tree-row").scrollIntoView({ block: "nearest" });
  }

  async #key(event) {
    const item = event.target.closest('[role="treeitem"]');
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const works = {
      ArrowDown: () => this.#step(item, 1),
      ArrowUp: () => this.#step(item, -1),
      Home: () => this.#focus(this.#seen()[0]),
      End: () => this.#focus(this.#seen().at(-1)),
      ArrowRight: async () => {
        if (item.getAttribute("aria-expanded") === "true") this.#step(item, 1);
        else await this.#open(item);
      },
      ArrowLeft: () => (item.getAttribute("aria-expanded") === "true" ? this.#close(item) : this.#focus(item.parentElement.closest('[role="treeitem"]'))),
      Enter: () => item.querySelector(":scope > .tree-row a")?.click() ?? (item.classList.contains("same") ? undefined : this.#toggle(item)),
      " ": () => this.#toggle(item),
    };
    if (!works[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    await works[event.key]();
  }

  #step(item, by) {
    const seen = this.#seen();
    this.#focus(seen[seen.indexOf(item) + by]);
  }
}

const words_of = (node) => (node.kind === "part" ? `part of ${origin(node.from[0])}` : node.kind === "join" ? relation(node) : node.from[0].name ? origin(node.from[0]) : `Group ${node.from[0].id}`);

function note_of(node) {
  const inside = node.kind === "join" ? plural(node.n_groups, "current group") : node.n_children ? plural(node.n_children, "part") : "";
  return [images(node.size), inside].filter(Boolean).join(" · ");
}
