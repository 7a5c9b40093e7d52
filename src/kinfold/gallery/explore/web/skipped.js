// @ts-check
// Images that could not be used, and why.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { count, plural } from "./format.js";

const PAGE = 500;

export async function mount(element) {
  const list = h("ul", { class: "lines" });
  const more = h("button", { type: "button", class: "button", hidden: true }, "Show more");
  const reasons = h("ul", { class: "reasons" });
  let shown = 0;
  const next = async () => {
    const page = await get("api/skipped", { offset: shown, limit: PAGE });
    shown += page.images.length;
    list.append(...page.images.map((one) => h("li", {}, h("span", { class: "key" }, one.key), h("span", { class: "why" }, one.reason))));
    more.hidden = shown >= page.total || !page.images.length;
    more.textContent = `Show more (${count(page.total - shown)} left)`;
    return page;
  };
  more.addEventListener("click", next);
  const { total, kinds } = await next();
  replace(reasons, kinds.map((kind) => h("li", {}, h("b", {}, count(kind.n)), ` ${kind.reason}`)));
  element.append(
    h("header", { class: "page-head" }, h("h1", {}, total ? `${plural(total, "image was", "images were")} skipped` : "No image was skipped"), h("p", { class: "lede" }, total ? "They couldn't be read, and are in no group." : `All of the run's images are in groups.`)),
    reasons,
    list,
    more,
  );
  return { title: "Skipped", unmount() {} };
}

