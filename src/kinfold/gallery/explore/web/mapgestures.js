// @ts-check
// Pointers, wheel and keys on the map's canvas: one finger or the mouse draws or pans, two fingers and the wheel zoom.

const STEP = 1.4; // one press of + or −
const MOST = 4000; // times the fitted view
const LEAST = 0.4;
const CLICK = 5; // px a press may wander and still be a click

/**
 * Listen on `canvas`, which `scatter` draws on. `mode()` is "pan", "lasso" or "rectangle"; `lasso` draws outlines;
 * `outlined(points, event)`, `clicked(x, y, event)`, `hovered(x, y)` (null: left), `moved()` are told in pixels.
 * Returns `{zoom(times), pan(right, down), home(), stop()}`.
 */
export function gestures(canvas, { scatter, lasso, mode, outlined, clicked, hovered, moved }) {
  const pointers = new Map(); // id -> [x, y]
  let pressed = null; // {x, y, drawing}
  let box = null;
  const at = (event) => {
    box ??= canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const forgetBox = () => (box = null);
  const go = () => {
    scatter.draw({ moving: true });
    moved();
  };
  const zoomAt = (times, x, y) => {
    const scale = Math.min(scatter.fit.scale * MOST, Math.max(scatter.fit.scale * LEAST, scatter.view.scale * times));
    const [mapX, mapY] = scatter.toMap(x, y);
    scatter.view.scale = scale;
    const [nowX, nowY] = scatter.toMap(x, y);
    scatter.view.x += mapX - nowX;
    scatter.view.y += mapY - nowY;
    go();
  };
  const pan = (dx, dy) => {
    scatter.view.x -= dx / scatter.view.scale;
    scatter.view.y += dy / scatter.view.scale;
    go();
  };
  const pinch = (id, x, y) => {
    const [other] = [...pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const [oldX, oldY] = pointers.get(id);
    const before = Math.hypot(oldX - other[0], oldY - other[1]);
    const after = Math.hypot(x - other[0], y - other[1]);
    pan((x - oldX) / 2, (y - oldY) / 2);
    if (before > 0) zoomAt(after / before, (x + other[0]) / 2, (y + other[1]) / 2);
  };

  const listeners = {
    pointerdown(event) {
      if (event.button > 1) return;
      forgetBox();
      const [x, y] = at(event);
      pointers.set(event.pointerId, [x, y]);
      canvas.setPointerCapture(event.pointerId);
      if (pointers.size > 1) {
        lasso.cancel();
        pressed = null;
        return;
      }
      const draws = event.button === 0 && (mode() !== "pan" || event.shiftKey);
      pressed = { x, y, wandered: false, draws };
      if (draws) lasso.begin(x, y, mode() === "rectangle" ? "rectangle" : "lasso");
    },
    pointermove(event) {
      const [x, y] = at(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType !== "touch") hovered(x, y);
        return;
      }
      if (pointers.size === 2) pinch(event.pointerId, x, y);
      else if (pressed) {
        pressed.wandered ||= Math.hypot(x - pressed.x, y - pressed.y) > CLICK;
        if (pressed.draws) for (const step of event.getCoalescedEvents?.() ?? [event]) lasso.reach(...at(step));
        else if (pressed.wandered) pan(x - before[0], y - before[1]);
        hovered(null);
      }
      pointers.set(event.pointerId, [x, y]);
    },
    pointerup(event) {
      const [x, y] = at(event);
      const press = pressed;
      pointers.delete(event.pointerId);
      pressed = null;
      if (!press) return;
      if (press.draws && lasso.active) lasso.reach(x, y);
      const outline = press.draws ? lasso.finish() : null;
      if (press.wandered && outline) outlined(outline, event);
      else if (!press.wandered && event.button === 0) clicked(x, y, event);
    },
    pointercancel(event) {
      pointers.delete(event.pointerId);
      pressed = null;
      lasso.cancel();
    },
    pointerleave() {
      forgetBox();
      hovered(null);
    },
    wheel(event) {
      event.preventDefault();
      forgetBox();
      const lines = event.deltaMode === 1 ? 18 : event.deltaMode === 2 ? 300 : 1;
      zoomAt(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016)), ...at(event));
    },
    keydown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const works = {
        "+": () => api.zoom(STEP),
        "=": () => api.zoom(STEP),
        "-": () => api.zoom(1 / STEP),
        0: () => api.home(),
        ArrowLeft: () => api.pan(80, 0),
        ArrowRight: () => api.pan(-80, 0),
        ArrowUp: () => api.pan(0, 80),
        ArrowDown: () => api.pan(0, -80),
      };
      if (event.key === "Escape" && lasso.active) {
        lasso.cancel();
        pressed = null;
      } else if (works[event.key]) works[event.key]();
      else return;
      event.preventDefault();
      event.stopPropagation();
    },
  };
  for (const [name, listener] of Object.entries(listeners)) canvas.addEventListener(name, listener, { passive: false });
  const api = {
    zoom: (times) => zoomAt(times, scatter.width / 2, scatter.height / 2),
    pan,
    home() {
      Object.assign(scatter.view, scatter.fit);
      go();
    },
    stop() {
      for (const [name, listener] of Object.entries(listeners)) canvas.removeEventListener(name, listener);
    },
  };
  return api;
}
