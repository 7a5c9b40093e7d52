// Two small charts: how large the groups are, and how sure the model is.

import { h, svg } from "./dom.js";
import { count, images } from "./format.js";

const MOST_BARS = 120;

/** Bars from `[{height, title, href}]`, heights from 0 to 1. */
export function bars(items, label) {
  const drawn = items.map(({ height, title, href }, k) => {
    const tall = height > 0 ? Math.max(1.5, height * 100) : 0;
    const bar = svg("rect", { x: k + 0.08, y: 100 - tall, width: 0.84, height: tall }, svg("title", {}, title));
    const target = svg("rect", { class: "target", x: k, y: 0, width: 1, height: 100 }, svg("title", {}, title));
    return href ? svg("a", { href, tabindex: "-1", "aria-label": title }, target, bar) : svg("g", {}, target, bar);
  });
  return svg("svg", { class: "bars", viewBox: `0 0 ${Math.max(1, items.length)} 100`, preserveAspectRatio: "none", "aria-hidden": "true" }, drawn, svg("title", {}, label));
}

function figure(caption, note, drawing, axis, spoken) {
  return h("figure", {}, h("figcaption", {}, caption, h("span", {}, note)), drawing, h("p", { class: "axis", "aria-hidden": "true" }, axis.map((text) => h("span", {}, text))), h("p", { class: "sr" }, spoken));
}

/** Sizes from the largest group to the smallest; many groups are drawn several to a bar. */
export function sizesChart(sizes, label) {
  const sorted = [...sizes].sort((a, b) => b.size - a.size);
  const step = Math.ceil(sorted.length / MOST_BARS);
  const items = [];
  for (let k = 0; k < sorted.length; k += step) {
    const some = sorted.slice(k, k + step);
    const mean = some.reduce((sum, one) => sum + one.size, 0) / some.length;
    const title = step === 1 ? `${label(some[0].id)}: ${images(some[0].size)}` : `groups ${k + 1} to ${k + some.length}: ${count(Math.round(mean))} images each`;
    items.push({ size: mean, title, href: step === 1 ? `#/group/${some[0].id}` : null });
  }
  const most = Math.max(1, ...items.map((item) => item.size));
  for (const item of items) item.height = item.size / most;
  const note = sorted.length ? `${count(sorted.at(-1).size)} to ${count(sorted[0].size)}` : "";
  return figure("Group sizes", note, bars(items, "Group sizes"), ["largest", "smallest"], `From the largest group to the smallest: ${note} images.`);
}

/** How many images have which confidence, in 20 steps. */
export function confidenceChart(histogram) {
  const most = Math.max(1, ...histogram);
  const total = histogram.reduce((sum, n) => sum + n, 0) || 1;
  const steps = histogram.length;
  const items = histogram.map((n, k) => ({ height: n / most, title: `${(k / steps).toFixed(2)} to ${((k + 1) / steps).toFixed(2)}: ${images(n)}` }));
  const high = histogram.slice(Math.floor(steps * 0.9)).reduce((sum, n) => sum + n, 0);
  const note = "how sure the model is";
  return figure("Confidence", note, bars(items, "Confidence"), ["0", "0.25", "0.5", "0.75", "1"], `${Math.round((100 * high) / total)} percent of the images have a confidence of 0.9 or more.`);
}

/** A group's own histogram, small. */
export function trace(histogram) {
  const most = Math.max(1, ...histogram);
  return bars(histogram.map((n, k) => ({ height: n / most, title: `${(k / histogram.length).toFixed(2)}: ${count(n)}` })), "Confidence");
}
