// Points on a WebGL 2 canvas. They are uploaded once, in random order, and drawn on demand, as many in a frame as the machine
// manages: while the view moves these are what one sees, a fair sample of all since the order is random; when it rests the
// others are added, frame by frame, until all are there. A graphics card draws a million in the first frames.

const POINTS = `#version 300 es
layout(location = 0) in vec2 place;
layout(location = 1) in uint group;
uniform vec2 centre;
uniform vec2 zoom;
uniform float size;
uniform float strength;
uniform vec4 single;
uniform highp sampler2D palette;
out vec4 color;
void main() {
  color = single.a > 0.0 ? single : texelFetch(palette, ivec2(int(group & 255u), int(group >> 8u)), 0);
  color.a *= strength;
  bool hidden = texelFetch(palette, ivec2(int(group & 255u), int(group >> 8u)), 0).a == 0.0;
  gl_Position = hidden ? vec4(2.0, 2.0, 2.0, 1.0) : vec4((place - centre) * zoom, 0.0, 1.0);
  gl_PointSize = size;
}`;
const DOT = `#version 300 es
precision highp float;
in vec4 color;
uniform float size;
out vec4 shown;
void main() {
  float cover = 1.0;
  if (size > 2.5) {
    vec2 off = gl_PointCoord - 0.5;
    cover = clamp((0.5 - length(off)) * size + 0.5, 0.0, 1.0);
    if (cover == 0.0) discard;
  }
  float alpha = color.a * cover;
  shown = vec4(color.rgb * alpha, alpha);
}`;
const PALETTE_WIDTH = 256;
// How many points a frame begins with, holds at least and at most, and the milliseconds that make it hold more or fewer: a moving
// view must keep up with the hand, a resting one is to be whole soon.
const MOVING = { first: 100_000, least: 15_000, most: 4_000_000, fast: 25, slow: 45 };
const RESTING = { first: 200_000, least: 100_000, most: 4_000_000, fast: 60, slow: 160 };

export class Scatter {
  #gl;
  #programs;
  #n = 0;
  #picked = new Uint32Array(0);
  #budgets = new Map([MOVING, RESTING].map((rule) => [rule, rule.first])); // points a frame
  #done = 0; // of all points, and of the selected twice, those that are drawn
  #frame = 0;
  #rest = 0;
  #asked = 0;
  #moving = false;
  #groups = null;
  #colors = null;
  #places = null;

  /** `drawn({moving, begins, all})` is told after every frame. Throws where WebGL 2 isn't there. */
  constructor(canvas, { drawn = () => {} } = {}) {
    this.canvas = canvas;
    this.drawn = drawn;
    /** Middle of the view in the map's units, and CSS pixels per unit. */
    this.view = { x: 0, y: 0, scale: 1 };
    this.fit = { x: 0, y: 0, scale: 1 };
    /** Size of the canvas in CSS pixels, as last measured; not always whole. */
    this.width = this.height = 0;
    this.selected = [0, 0, 0, 1];
    const options = { antialias: false, depth: false, stencil: false, alpha: true, preserveDrawingBuffer: true, powerPreference: "high-performance" };
    this.#gl = canvas.getContext("webgl2", options);
    if (!this.#gl) throw new Error("no WebGL 2");
    this.#begin();
    this.lost = (event) => event.preventDefault();
    this.found = () => this.#restore();
    canvas.addEventListener("webglcontextlost", this.lost);
    canvas.addEventListener("webglcontextrestored", this.found);
  }

  #begin() {
    const gl = this.#gl;
    this.#programs = link(gl, POINTS, DOT);
    this.buffers = { places: gl.createBuffer(), groups: gl.createBuffer(), picked: gl.createBuffer() };
    this.texture = gl.createTexture();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  }

  #restore() {
    this.#begin();
    if (this.#places) this.setPoints(this.#places);
    if (this.#groups) this.setGroups(this.#groups);
    if (this.#colors) this.setColors(this.#colors);
    this.setSelected(this.#picked);
  }

  /** x, y of every point, in the order they are drawn. */
  setPoints(places) {
    const gl = this.#gl;
    this.#places = places;
    this.#n = places.length / 2;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.places);
    gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  }

  /** Place in the palette of every point, in the same order: Uint16Array. */
  setGroups(groups) {
    const gl = this.#gl;
    this.#groups = groups;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.groups);
    gl.bufferData(gl.ARRAY_BUFFER, groups, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_SHORT, 0, 0);
    this.draw();
  }

  /** Red, green, blue, alpha of every place in the palette; alpha 0 hides. */
  setColors(colors) {
    const gl = this.#gl;
    this.#colors = colors;
    const height = Math.max(1, Math.ceil(colors.length / 4 / PALETTE_WIDTH));
    const pixels = new Uint8Array(PALETTE_WIDTH * height * 4);
    pixels.set(colors);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, PALETTE_WIDTH, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    this.draw();
  }

  /** The points (Uint32Array of places in the order) drawn over all others, with an outline in the colour `selected`. */
  setSelected(slots) {
    const gl = this.#gl;
    this.#picked = slots.sort(); // the order is random, so that any first part of them is a fair sample too
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.picked);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, slots, gl.DYNAMIC_DRAW);
    this.draw();
  }

  /** Measure the canvas, and fit `bounds` (least x and y, greatest x and y) into it. */
  setBounds([left, low, right, high]) {
    ({ width: this.width, height: this.height } = this.canvas.getBoundingClientRect());
    const scale = 0.92 * Math.min(this.width / Math.max(right - left, 1e-6), this.height / Math.max(high - low, 1e-6));
    this.fit = { x: (left + right) / 2, y: (low + high) / 2, scale };
  }

  /** CSS pixels from the canvas's corner, of a point of the map. */
  toScreen(x, y) {
    return [(x - this.view.x) * this.view.scale + this.width / 2, this.height / 2 - (y - this.view.y) * this.view.scale];
  }

  /** The reverse. */
  toMap(left, top) {
    return [(left - this.width / 2) / this.view.scale + this.view.x, (this.height / 2 - top) / this.view.scale + this.view.y];
  }

  /** How wide a point is, in CSS pixels: by how many share the canvas, and wider the closer one looks. */
  get pointSize() {
    const even = 0.4 * Math.sqrt((this.width * this.height) / Math.max(1, this.#n));
    const closer = Math.sqrt(this.view.scale / this.fit.scale);
    return Math.min(14, Math.max(1.4, Math.min(5, even)) * Math.min(4, Math.max(1, closer)));
  }

  /** Draw anew, from the next frame on; `moving`: more will follow soon. */
  draw({ moving = false } = {}) {
    this.#moving = moving;
    this.#done = 0;
    this.#ask();
  }

  #ask() {
    if (this.#frame) return;
    this.#asked = performance.now();
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#rest);
    this.canvas.removeEventListener("webglcontextlost", this.lost);
    this.canvas.removeEventListener("webglcontextrestored", this.found);
    const gl = this.#gl;
    for (const buffer of Object.values(this.buffers)) gl.deleteBuffer(buffer);
    gl.deleteTexture(this.texture);
    gl.deleteProgram(this.#programs.program);
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  #draw() {
    this.#frame = 0;
    if (this.#gl.isContextLost() || !this.width) return;
    this.#adapt(performance.now() - this.#asked);
    const budget = this.#budgets.get(this.#rule());
    const begins = this.#done === 0;
    if (begins) this.#prepare();
    const total = this.#n + 2 * this.#picked.length;
    if (this.#moving) this.#paint(0, total, Math.min(1, budget / Math.max(1, total)));
    else this.#paint(this.#done, Math.min(total, this.#done + budget), 1);
    this.#done = this.#moving ? 0 : Math.min(total, this.#done + budget);
    clearTimeout(this.#rest);
    const all = !this.#moving && this.#done === total;
    if (this.#moving) this.#rest = setTimeout(() => this.draw(), 140);
    else if (!all) this.#ask();
    this.drawn({ moving: this.#moving, begins, all });
  }

  #rule() {
    return this.#moving ? MOVING : RESTING;
  }

  // How long a frame was waited for says whether the machine keeps up with the last ones.
  #adapt(waited) {
    const rule = this.#rule();
    const now = this.#budgets.get(rule);
    const times = waited > rule.slow ? 0.6 : waited < rule.fast ? 1.4 : 1;
    this.#budgets.set(rule, Math.round(Math.min(rule.most, Math.max(rule.least, now * times))));
  }

  #prepare() {
    const gl = this.#gl;
    const at = this.#programs;
    this.#resize();
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(at.program);
    gl.uniform2f(at.centre, this.view.x, this.view.y);
    gl.uniform2f(at.zoom, (2 * this.view.scale) / this.width, (2 * this.view.scale) / this.height);
    gl.uniform1i(at.palette, 0);
  }

  // Three layers one after the other: all points, the selected once wider in one colour, and again in their own, which gives
  // them an outline. Of this sequence draw `from` to `to`, and of each layer's part the first `share`.
  #paint(from, to, share) {
    const m = this.#picked.length;
    const ratio = this.canvas.width / this.width;
    const size = this.pointSize * ratio;
    const layers = [
      { n: this.#n, size, strength: m ? 0.35 : 1, single: [0, 0, 0, 0] },
      { n: m, size: size + 2.5 * ratio, strength: 1, single: this.selected, picked: true },
      { n: m, size, strength: 1, single: [0, 0, 0, 0], picked: true },
    ];
    let before = 0;
    for (const layer of layers) {
      const begin = Math.max(0, from - before);
      const end = Math.min(layer.n, to - before);
      if (end > begin) this.#paintLayer(layer, begin, Math.ceil((end - begin) * share));
      before += layer.n;
    }
  }

  #paintLayer({ size, strength, single, picked }, begin, count) {
    const gl = this.#gl;
    const at = this.#programs;
    gl.uniform1f(at.size, size);
    gl.uniform1f(at.strength, strength);
    gl.uniform4f(at.single, ...single);
    if (!picked) return void gl.drawArrays(gl.POINTS, begin, count);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.picked);
    gl.drawElements(gl.POINTS, count, gl.UNSIGNED_INT, 4 * begin);
  }

  #resize() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    const width = Math.round(this.width * ratio);
    const height = Math.round(this.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
  }
}

function link(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    gl.deleteShader(shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program) || "the shaders don't link");
  const names = ["centre", "zoom", "size", "strength", "single", "palette"];
  return { program, ...Object.fromEntries(names.map((name) => [name, gl.getUniformLocation(program, name)])) };
}
