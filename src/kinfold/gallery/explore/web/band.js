// @ts-check
// Selecting by drawing a box over a grid with the mouse.

import { h, setCss } from "./dom.js";

const FAR = 6;

/** `base()` gives what was selected before; `pick(indices, base)` is told what the box touches as it grows. */
export function band(canvas, { grid, base, pick }) {
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType !== "mouse") return;
    const start = at(canvas, event);
    let box = null;
    let before = null;
    const move = (moved) => {
      const now = at(canvas, moved);
      if (!box) {
        if (Math.hypot(now.x - start.x, now.y - start.y) < FAR) return;
        box = h("div", { class: "band", "aria-hidden": "true" });
        canvas.append(box);
        before = event.shiftKey || event.ctrlKey || event.metaKey ? base() : new Set();
        canvas.setPointerCapture(event.pointerId);
      }
      const edges = { left: Math.min(start.x, now.x), top: Math.min(start.y, now.y), right: Math.max(start.x, now.x), bottom: Math.max(start.y, now.y) };
      setCss(box, { transform: `translate(${edges.left}px, ${edges.top}px)`, width: `${edges.right - edges.left}px`, height: `${edges.bottom - edges.top}px` });
      pick(grid.touching(edges), before);
      if (moved.clientY > window.innerHeight - 40) window.scrollBy({ top: 16, behavior: "instant" });
      else if (moved.clientY < 90) window.scrollBy({ top: -16, behavior: "instant" });
    };
    const stop = () => {
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", stop);
      canvas.removeEventListener("pointercancel", stop);
      if (!box) return;
      box.remove();
      // The click that ends the drawing belongs to it, not to the tile below.
      const swallow = (click) => click.stopImmediatePropagation();
      canvas.addEventListener("click", swallow, true);
      setTimeout(() => canvas.removeEventListener("click", swallow, true), 0);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", stop);
    canvas.addEventListener("pointercancel", stop);
  });
}

function at(canvas, event) {
  const frame = canvas.getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
}
