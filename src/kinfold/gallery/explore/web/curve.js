// @ts-check
// From how many groups the number was chosen: what the server has laid out, as a drawing.

import { h, svg } from "./dom.js";

/** The drawing of an estimate, with its sentence; `pick(n)` is called for a candidate. */
export function curveFigure(curve, pick) {
  return h(
    "div",
    { class: "curve" },
    curve.line && drawing(curve),
    h(
      "div",
      { class: "curve-text" },
      curve.reason && h("p", {}, curve.reason),
      curve.candidates.length > 0 && h("p", { class: "soft small" }, "Numbers that stand out:"),
      curve.candidates.length > 0 && h("div", { class: "chips" }, curve.candidates.map((n) => h("button", { type: "button", class: "button small", title: `Look at ${n} groups`, onclick: () => pick(n) }, n === curve.chosen ? `${n}, chosen` : `${n}`))),
    ),
  );
}

function drawing({ line, null: zero, marks, ticks, levels, left, right, top, bottom, width, height }) {
  const spoken = marks.map((mark) => `${mark.n_groups}${mark.chosen ? " (chosen)" : ""}`).join(", ");
  return h(
    "figure",
    {},
    svg(
      "svg",
      { class: "curve-plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Separation by number of groups${spoken ? `; marked: ${spoken}` : ""}` },
      svg("path", { class: "axis-line", d: `M${left} ${top}V${bottom}H${right}` }),
      ticks.map(({ at, text }) => svg("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, text)),
      levels.map(({ at, text }) => svg("text", { x: left - 5, y: at + 4, "text-anchor": "end" }, text)),
      zero && svg("polyline", { class: "null-line", points: zero }),
      svg("polyline", { class: "line", points: line }),
      marks.map((mark) => [
        mark.chosen && svg("path", { class: "chosen-line", d: `M${mark.x} ${mark.y}V${bottom}` }),
        svg("circle", { class: mark.chosen ? "chosen" : "candidate", cx: mark.x, cy: mark.y, r: mark.chosen ? 5 : 4 }, svg("title", {}, `${mark.n_groups} groups`)),
        mark.chosen && svg("text", { class: "chosen-text", x: mark.x, y: mark.y - 9, "text-anchor": "middle" }, String(mark.n_groups)),
      ]),
    ),
    h("figcaption", { class: "soft small" }, legend("", "separation by number of groups"), zero && legend("null-line", "the same without groups")),
  );
}

const legend = (sign, words) => h("span", { class: "legend" }, h("span", { class: `sign ${sign}` }), words);
