// @ts-check
// The map: all images in two dimensions. This module brings it about (it is laid out once, by the server); mapview.js shows it.

import { freshId, h, replace } from "./dom.js";
import { images } from "./format.js";
import { MapView } from "./mapview.js";

const ASK = 1000; // ms between questions while it is being laid out

export async function mount(element, { api, store }) {
  const page = h("div", { class: "map-page" });
  element.append(h("h1", { class: "sr" }, "Map"), page);
  let gone = false;
  let timer = 0;
  let view = null;

  const look = async () => {
    let answer;
    try {
      answer = await api.get("api/map");
    } catch (error) {
      answer = { state: "none", text: error.message };
    }
    if (!gone) await show(answer);
  };
  const start = async () => {
    let answer;
    try {
      answer = await api.post("api/map");
    } catch (error) {
      answer = { state: "none", text: error.message };
    }
    if (!gone) await show(answer);
  };
  const show = async (answer) => {
    clearTimeout(timer);
    if (answer.state === "ready") return open(answer);
    if (answer.state === "running") {
      page.querySelector("progress") ? update(page, answer) : replace(page, making(answer));
      timer = setTimeout(look, ASK);
    } else {
      replace(page, answer.state === "unavailable" ? cannot(answer) : offer(answer, store.readOnly ? null : start));
    }
  };
  const open = async (answer) => {
    if (!MapView.possible()) return void replace(page, noDrawing());
    replace(page, h("p", { class: "nothing", role: "status" }, `Reading the map of ${images(answer.n)}…`));
    view = new MapView(page, answer);
    try {
      await view.open();
    } catch (error) {
      view.destroy();
      view = null;
      if (!gone) replace(page, panel("The map can't be shown", h("p", {}, error.message), h("p", {}, h("a", { class: "link", href: "#/" }, "To all groups"))));
    }
  };
  await look();
  return {
    title: "Map",
    unmount() {
      gone = true;
      clearTimeout(timer);
      view?.destroy();
    },
  };
}

const panel = (title, ...parts) => h("section", { class: "map-panel" }, h("h2", {}, title), ...parts);

function offer(answer, start) {
  return panel(
    "All images at one glance",
    h("p", {}, "The map lays every image out in two dimensions, alike ones beside each other. It is made once, in the background, and kept in the run: seconds for thousands of images, minutes for a million."),
    answer.text && h("p", { class: "map-problem", role: "alert" }, answer.text),
    start ? h("button", { type: "button", class: "button primary", onclick: start }, answer.text ? "Try again" : "Lay out the map") : h("p", { class: "soft" }, "This page is for reading only: it can't be made from here."),
  );
}

function making(answer) {
  const name = freshId("step");
  return panel(
    "Laying out the map",
    h("p", { id: name, class: "map-step", role: "status" }, stepText(answer)),
    h("progress", { max: 1, value: answer.progress, "aria-labelledby": name }),
    h("p", { class: "soft" }, "You can go on elsewhere meanwhile."),
  );
}

function update(page, answer) {
  page.querySelector("progress").value = answer.progress;
  const step = page.querySelector(".map-step");
  if (step.textContent !== stepText(answer)) step.textContent = stepText(answer);
}

const stepText = (answer) => answer.text || "Getting ready";

// "The map needs umap-learn: pip install …": the command is set apart, to be copied.
function cannot(answer) {
  const [, words, command] = /^(.*?):?\s*(pip install .*)?$/s.exec(answer.text ?? "") ?? [];
  return panel("There is no map here", h("p", {}, words), command && h("p", {}, h("code", {}, command)), h("p", {}, h("a", { class: "link", href: "#/" }, "To all groups")));
}

function noDrawing() {
  return panel(
    "This browser can't draw the map",
    h("p", {}, "It needs WebGL 2, which is missing here or switched off. Everything else of the run can be seen and corrected without it."),
    h("p", {}, h("a", { class: "link", href: "#/" }, "To all groups")),
  );
}
