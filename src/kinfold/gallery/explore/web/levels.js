// From coarse to fine: a control that previews another number of groups, and makes it the run's own.

import { get, post } from "./api.js";
import { curveFigure } from "./curve.js";
import { freshId, h, keepFocus, paused, replace } from "./dom.js";
import { count, plural } from "./format.js";
import { icon } from "./icons.js";
import { LevelCards } from "./levelcards.js";
import { store } from "./store.js";
import { complain, toast } from "./toasts.js";

const WAIT = 90; // milliseconds a slider rests before its level is read

// After a level was taken the views are drawn again; who did it by keyboard goes on where they were.
let returning = false;

/**
 * The control, and the place of its preview. `cards` are those of the run's groups, and `groups` the section they are in,
 * which a preview takes the place of. Null where the run has no levels.
 */
export async function levelControl(cards, groups) {
  if (!store.run.has_levels) return null;
  let facts;
  try {
    facts = await get("api/levels");
  } catch (error) {
    return { element: h("p", { class: "notice" }, `The levels of this run can't be shown: ${error.message}`), preview: null, arrive() {}, destroy() {} };
  }
  return new LevelControl(facts, cards, groups);
}

// What `kinfold level` counts, for one and for several.
const KINDS = {
  names: ["name", "names"],
  locks: ["lock", "locks"],
  marks: ["mark", "marks"],
  moves: ["image placed by hand", "images placed by hand"],
  proposals: ["accepted proposal", "accepted proposals"],
  merges: ["merge", "merges"],
  splits: ["split", "splits"],
  groups: ["group made by hand", "groups made by hand"],
  words: ["group named by its words", "groups named by their words"],
};

/** What was carried to the new level, and what stays with the one before, as sentences. */
function told({ carried, left }) {
  const list = (counts) => Object.entries(counts).filter(([, n]) => n).map(([kind, n]) => plural(n, ...(KINDS[kind] ?? [kind, kind])));
  const [over, stays] = [list(carried), list(left)];
  return [over.length && `Carried over: ${over.join(", ")}.`, stays.length && `Kept with the level before: ${stays.join(", ")}.`].filter(Boolean);
}

class LevelControl {
  #level; // that is looked at
  #drawn; // whose cards are shown
  #turn = 0;
  #busy = false;

  constructor(facts, cards, groups) {
    Object.assign(this, { facts, cards, groups });
    this.#level = this.#drawn = facts.shown;
    this.preview = h("section", { class: "level-preview", "aria-label": "Preview", hidden: true });
    this.read = paused(() => this.#read(), WAIT);
    const { steps, n_parts } = facts;
    const field = freshId("groups");
    this.coarser = this.#button("Coarser", "left", -1);
    this.finer = this.#button("Finer", "right", 1);
    this.slider = h("input", { type: "range", class: "level-slider", min: 0, max: steps.length - 1, step: 1, "aria-label": "How fine the groups are", oninput: () => this.look(steps[this.slider.valueAsNumber]) });
    this.field = h("input", { type: "number", id: field, min: steps[0], max: n_parts, step: 1, inputmode: "numeric", autocomplete: "off", onchange: () => this.#typed() });
    this.said = h("p", { class: "level-said", role: "status" });
    this.works = h("div", { class: "works" });
    this.element = h(
      "section",
      { class: "levels", "aria-label": "From coarse to fine", tabindex: "-1" },
      h(
        "div",
        { class: "level-bar" },
        this.coarser,
        h("span", { class: "level-ends" }, this.slider),
        this.finer,
        h("label", { class: "inline", for: field }, this.field, "groups"),
        h("a", { class: "button", href: "#/tree" }, icon("tree"), h("span", {}, "Tree")),
      ),
      h("div", { class: "level-foot" }, this.said, this.works),
      facts.curve && h("details", { class: "about" }, h("summary", {}, facts.curve.chosen ? `Why ${facts.curve.chosen} groups` : "How many groups there are"), curveFigure(facts.curve, (n) => this.look(n))),
    );
    this.#draw();
  }

  /** The control is in the page. */
  arrive() {
    if (returning) this.slider.focus({ preventScroll: true });
    returning = false;
  }

  #button(text, sign, direction) {
    const work = () => {
      const next = this.#next(direction);
      if (next !== undefined) this.look(next);
    };
    return h("button", { type: "button", class: "button level-step", title: `To the ${direction < 0 ? "previous" : "next"} suggested number of groups`, onclick: work }, direction < 0 && icon(sign), h("span", {}, text), direction > 0 && icon(sign));
  }

  /** The next suggested number of groups below or above the one that is looked at. */
  #next(direction) {
    const { suggested } = this.facts;
    return direction < 0 ? suggested.findLast((n) => n < this.#level) : suggested.find((n) => n > this.#level);
  }

  #typed() {
    const { steps, n_parts } = this.facts;
    const asked = Math.round(this.field.valueAsNumber);
    if (Number.isNaN(asked)) this.#draw();
    else this.look(Math.max(steps[0], Math.min(n_parts, asked)));
  }

  /** Look at the level of `n` groups; at the run's own nothing is previewed. */
  look(n) {
    if (this.#busy) return;
    this.#level = n;
    this.#draw();
    this.read();
  }

  #draw() {
    const { steps, shown, before, refusal } = this.facts;
    const n = this.#level;
    const nearest = steps.reduce((best, one, k) => (Math.abs(one - n) < Math.abs(steps[best] - n) ? k : best), 0);
    this.slider.value = String(nearest);
    this.slider.setAttribute("aria-valuetext", plural(n, "group"));
    this.field.value = String(n);
    for (const [button, direction] of [[this.coarser, -1], [this.finer, 1]]) {
      const next = this.#next(direction);
      // aria-disabled, so that the focus stays on a button that has reached its end
      button.setAttribute("aria-disabled", String(next === undefined));
      button.setAttribute("aria-label", next === undefined ? button.textContent : `${button.textContent}, ${plural(next, "group")}`);
    }
    const looking = n !== shown;
    const back = looking ? shown : before;
    keepFocus(this.element, () =>
      replace(
        this.works,
        looking && !refusal && h("button", { type: "button", class: "button primary", disabled: this.#busy, onclick: () => this.#take(n) }, icon("confirm"), h("span", {}, "Use this level")),
        back && (looking || !refusal) && h("button", { type: "button", class: "button", disabled: this.#busy, onclick: () => (looking ? this.look(shown) : this.#take(before)) }, icon("undo"), h("span", {}, `Back to ${plural(back, "group")}`)),
      ),
    );
    if (!looking) this.said.textContent = this.#own();
    this.element.classList.toggle("looking", looking);
  }

  #own() {
    const { shown, fitted } = this.facts;
    return shown === fitted ? "" : `${plural(shown, "group")} of ${count(this.facts.n_parts)} parts; the fit has ${count(fitted)}.`;
  }

  async #read() {
    const mine = (this.#turn += 1);
    const n = this.#level;
    const { shown } = this.facts;
    if (n === shown) {
      this.preview.hidden = true;
      this.groups.hidden = false;
      this.#drawn = n;
      return;
    }
    this.list ??= this.#makeCards();
    const from = this.#drawn === shown ? this.cards.cards() : this.list.cards();
    const was = this.#drawn;
    try {
      // measured before they are hidden
      const shownNow = this.list.show(n, was, from);
      this.preview.hidden = false;
      this.groups.hidden = true;
      const counts = await shownNow;
      if (mine !== this.#turn) return;
      this.#drawn = n;
      this.said.textContent = this.#words(n, counts);
    } catch (error) {
      complain(error);
    }
  }

  #makeCards() {
    const list = new LevelCards();
    replace(this.preview, list.element);
    return list;
  }

  #words(n, counts) {
    const { shown, refusal } = this.facts;
    const parts = [counts.divided && `${count(counts.divided)} split`, counts.joined && `${count(counts.joined)} join`, counts.same && `${count(counts.same)} stay`].filter(Boolean);
    const words = `Preview of ${plural(n, "group")}: of the ${plural(shown, "current group")} ${parts.join(", ")}.`;
    return refusal ? `${words} It can't be taken: ${refusal}.` : `${words} Nothing changes until you use it.`;
  }

  async #take(n) {
    const { shown } = this.facts;
    this.#busy = true;
    this.#draw();
    const said = toast(`Making ${plural(n, "group")} the run's own…`, { kind: "working", stay: Infinity });
    try {
      const answer = await post("api/levels", { n_groups: n });
      returning = this.element.contains(document.activeElement) || document.activeElement === document.body;
      await store.reopen();
      toast([`The run has ${plural(n, "group")} now, not ${count(shown)}.`, ...told(answer)].join(" "));
    } catch (error) {
      complain(error);
    } finally {
      said();
      this.#busy = false;
      if (this.element.isConnected) this.#draw();
    }
  }

  destroy() {
    this.read.cancel();
    this.#turn += 1;
    this.list?.destroy();
  }
}
