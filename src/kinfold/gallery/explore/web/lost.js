// @ts-check
// An address that leads nowhere.

import { h } from "./dom.js";

export function mount(element) {
  element.append(h("div", { class: "nothing" }, h("h1", {}, "Nothing here"), h("p", {}, h("a", { class: "link", href: "#/" }, "To all groups"))));
  return { title: "Nothing here", unmount() {} };
}
