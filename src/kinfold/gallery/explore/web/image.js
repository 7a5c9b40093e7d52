// One image, large: its groups with probabilities, its neighbours, what is known of it, and what can be done with it.

import { confirmRows, markRows, moveRows, moveTo } from "./actions.js";
import { get, original, thumb } from "./api.js";
import { copyText, freshId, h, isTyping, keepFocus, replace } from "./dom.js";
import { bytes, count, fileName, folderOf, percent, sure } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";
import { complain, lower, toast } from "./toasts.js";

/**
 * Show the image at `index` of `list` (a PagedList). `show(index)` is told where one went; `first()` are groups to
 * suggest when it is moved.
 */
export function openImage(list, index, { show = () => {}, first = () => [] } = {}) {
  new ImageView(list, index, { show, first }).open();
}

/** Show an image by its row number alone. */
export function openRow(row) {
  const list = { total: 1, item: async () => ({ row }) };
  openImage(list, 0);
}

class ImageView {
  constructor(list, index, { show, first }) {
    Object.assign(this, { list, index, show, first, turn: 0 });
    this.trail = []; // lists that a neighbour was opened from
  }

  open() {
    const heading = freshId("title");
    this.title = h("h2", { id: heading });
    this.folder = h("p", { class: "soft small folder" });
    this.place = h("p", { class: "soft number", role: "status" });
    this.stage = h("div", { class: "stage" });
    this.side = h("div", { class: "side", tabindex: "-1" });
    this.before = this.step("left", "Previous image (←)", -1);
    this.after = this.step("right", "Next image (→)", 1);
    const close = h("button", { type: "button", class: "ghost square", "aria-label": "Close", title: "Close (Esc)", onclick: () => this.dialog.close() }, icon("close"));
    this.dialog = h(
      "dialog",
      { class: "image-dialog", tabindex: "-1", "aria-labelledby": heading },
      h("header", { class: "dialog-head" }, h("div", { class: "image-title" }, this.title, this.folder), this.place, this.before, this.after, close),
      h("div", { class: "image-body" }, this.stage, this.side),
    );
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    const forget = store.onChange(() => this.draw({ again: true }));
    const leave = () => this.dialog.close();
    window.addEventListener("hashchange", leave);
    this.dialog.addEventListener("close", () => {
      forget();
      window.removeEventListener("hashchange", leave);
      lower(this.dialog);
      this.dialog.remove();
      (this.trail[0]?.show ?? this.show)(this.trail[0]?.index ?? this.index);
    });
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.dialog.focus();
    this.draw();
  }

  step(sign, label, by) {
    return h("button", { type: "button", class: "ghost square", "aria-label": label, title: label, onclick: () => this.go(by) }, icon(sign));
  }

  async go(by) {
    const to = this.index + by;
    if (to < 0 || to >= (this.list.total ?? 0)) return;
    this.index = to;
    this.show(to);
    await this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    const works = { ArrowLeft: () => this.go(-1), ArrowRight: () => this.go(1), s: () => this.similar() };
    if (!store.readOnly) {
      Object.assign(works, {
        m: () => this.move(),
        c: () => confirmRows([this.row]),
        w: () => markRows([this.row], this.facts?.mark === "wrong" ? null : "wrong"),
        n: () => markRows([this.row], this.facts?.mark === "noise" ? null : "noise"),
        u: () => markRows([this.row], null),
      });
    }
    const work = works[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  }

  move() {
    const top = (this.facts?.top ?? []).map((one) => one.group);
    return moveRows([this.row], { from: this.facts?.group ?? null, first: [...top, ...this.first()] });
  }

  similar() {
    location.hash = `#/similar/${this.row}`;
  }

  async draw({ again = false } = {}) {
    const mine = (this.turn += 1);
    const item = again ? { row: this.row } : await this.list.item(this.index).catch(complain);
    if (!item || mine !== this.turn) return;
    this.row = item.row;
    const facts = await get(`api/images/${item.row}`).catch(complain);
    if (!facts || mine !== this.turn) return;
    this.facts = facts;
    this.title.textContent = fileName(facts.key);
    this.folder.textContent = folderOf(facts.key);
    this.title.title = facts.key;
    this.place.textContent = this.list.total > 1 ? `${count(this.index + 1)} of ${count(this.list.total)}` : "";
    this.before.disabled = this.index <= 0;
    this.after.disabled = this.index + 1 >= (this.list.total ?? 0);
    if (document.activeElement?.disabled) this.dialog.focus(); // keys don't reach a button that is off
    if (!again) this.drawStage();
    const near = this.near && again ? this.near : h("section", { class: "near", "aria-label": "Nearest neighbours" });
    keepFocus(this.dialog, () => replace(this.side, this.state(), this.top(), this.works(), near, this.known()));
    if (near !== this.near) this.neighbours(near, mine);
    this.near = near;
  }

  drawStage() {
    const { row, key, width, height, missing } = this.facts;
    const lost = (why) => h("div", { class: "absent large" }, h("b", {}, "The image can't be shown"), h("span", {}, why));
    if (missing || !store.run.has_images) return void replace(this.stage, lost(missing ?? "The run has no images, only features."));
    const image = h("img", { src: original(row), alt: fileName(key), draggable: "false" });
    if (width && Math.max(width, height) < 400) image.classList.add(Math.max(width, height) < 100 ? "tiny" : "enlarged");
    image.addEventListener("error", () => image.isConnected && replace(this.stage, lost("It couldn't be read.")));
    replace(this.stage, image);
    this.ahead(1);
    this.ahead(-1);
  }

  // The next one is asked for before it is wanted.
  async ahead(by) {
    const item = await this.list.item(this.index + by).catch(() => null);
    if (item) new Image().src = original(item.row);
  }

  state() {
    const { group, original_group: was, mark, by_hand: byHand, typicality: typical = null } = this.facts;
    const words = mark === "noise" ? "Noise: belongs nowhere" : mark === "wrong" ? "Wrong here" : store.label(group);
    const notes = [mark && group >= 0 && `was in ${store.label(group)}`, byHand && !mark && "confirmed by a person", was !== group && `the model said ${store.label(was)}`, !mark && typical !== null && `more typical than ${percent(typical)} of its group`].filter(Boolean);
    return h("section", { class: "image-state" }, h("p", { class: `verdict ${mark ?? ""}` }, group >= 0 && !mark ? h("a", { href: `#/group/${group}` }, words) : words), notes.length > 0 && h("p", { class: "soft small" }, notes.join(" · ")));
  }

  top() {
    const rows = this.facts.top.map(({ group, probability }) =>
      h("li", {}, h("a", { class: "key", href: `#/group/${group}` }, store.label(group)), h("span", { class: "meter", css: { "--share": probability }, "aria-hidden": "true" }), h("span", { class: "number" }, sure(probability)), !store.readOnly && group !== this.facts.group ? h("button", { type: "button", class: "link", "aria-label": `Move to ${store.label(group)}`, onclick: () => moveTo([this.row], group) }, "Move") : h("span", {})),
    );
    return h("section", { "aria-label": "Most probable groups" }, h("h3", {}, "Most probable groups"), h("ol", { class: "probabilities" }, rows));
  }

  works() {
    const button = (sign, text, key, work, pressed = null) => h("button", { type: "button", class: "button", title: `${text} (${key})`, "aria-pressed": pressed === null ? null : String(pressed), onclick: work }, icon(sign), h("span", {}, text));
    const similar = store.run.has_features !== false && h("a", { class: "button", href: `#/similar/${this.row}`, title: "Find similar (S)" }, icon("similar"), h("span", {}, "Find similar"));
    if (store.readOnly) return h("div", { class: "works" }, similar);
    const { mark, by_hand: byHand } = this.facts;
    return h(
      "div",
      { class: "works", role: "group", "aria-label": "This image" },
      button("move", "Move to…", "M", () => this.move()),
      button("confirm", "Confirm", "C", () => confirmRows([this.row]), Boolean(byHand && !mark)),
      button("wrong", "Wrong", "W", () => markRows([this.row], mark === "wrong" ? null : "wrong"), mark === "wrong"),
      button("noise", "Noise", "N", () => markRows([this.row], mark === "noise" ? null : "noise"), mark === "noise"),
      similar,
    );
  }

  async neighbours(section, mine) {
    const answer = await get(`api/images/${this.row}/neighbors`, { n: 18 }).catch(() => null);
    if (mine !== this.turn || !answer?.images.length) return;
    const list = { total: answer.images.length, item: async (k) => answer.images[k] };
    const go = (k) => {
      this.trail.push({ list: this.list, index: this.index, show: this.show });
      Object.assign(this, { list, index: k, show: () => {} });
      this.draw();
      this.side.scrollTo({ top: 0 });
    };
    const items = answer.images.map((one, k) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "near-image", title: `${one.key}\n${store.label(one.group)} · ${sure(one.similarity)}`, "aria-label": `${fileName(one.key)}, ${store.label(one.group)}, similarity ${sure(one.similarity)}`, onclick: () => go(k) },
          store.run.has_images ? h("img", { src: thumb(one.row, 72), alt: "", decoding: "async" }) : h("span", { class: "absent" }, fileName(one.key)),
          h("span", { class: `near-group ellipsis${one.group === this.facts.group ? "" : " other"}` }, store.label(one.group)),
        ),
      ),
    );
    const back = this.trail.length > 0 && h("button", { type: "button", class: "link", onclick: () => (Object.assign(this, this.trail.pop()), this.draw()) }, "Back");
    replace(section, h("h3", {}, "Nearest neighbours", back), h("ul", { class: "near-list" }, items));
  }

  known() {
    const { path, key, width, height, n_bytes: size, format, metadata } = this.facts;
    const where = path ?? key;
    const copy = async () => {
      await copyText(where).then(() => toast("The path is copied."), complain);
    };
    const facts = [
      ["File", h("span", { class: "path" }, h("code", {}, where), h("button", { type: "button", class: "ghost square", "aria-label": "Copy the path", title: "Copy the path", onclick: copy }, icon("copy")))],
      where !== key && ["Key", key],
      width && ["Size", `${width} × ${height}${size ? `, ${bytes(size)}` : ""}`],
      format && ["Format", format],
      ["Row", count(this.row)],
      ...Object.entries(metadata ?? {}).map(([name, value]) => [name, String(value)]),
    ].filter(Boolean);
    return h("section", { "aria-label": "About the file" }, h("h3", {}, "About the file"), h("dl", { class: "known" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }
}
