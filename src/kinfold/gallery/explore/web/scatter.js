// Points on a WebGL 2 canvas. They are uploaded once, in random order, and drawn on demand: while the view moves, as many of
// them as the machine draws in a frame, a fair sample of all since the order is random; all of them when it rests.

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
const SLOW_FRAME = 42; // ms; beyond it a moving view draws fewer points
const FAST_FRAME = 24;
const LEAST = 20_000;

export class Scatter {
  #gl;
  #programs;
  #n = 0;
  #pick = { buffer: null, count: 0 };
  #share = 1;
  #frame = 0;
  #rest = 0;
  #last = 0;
  #moving = false;
  #groups = null;
  #colors = null;
  #places = null;

  /** `drawn()` is told after every frame. Throws where WebGL 2 isn't there. */
  constructor(canvas, { drawn = () => {} } = {}) {
    this.canvas = canvas;
    this.drawn = drawn;
    /** Middle of the view in the map's units, and CSS pixels per unit. */
    this.view = { x: 0, y: 0, scale: 1 };
    this.fit = { x: 0, y: 0, scale: 1 };
    /** Size of the canvas in CSS pixels, as last measured; not always whole. */
    this.width = this.height = 0;
    this.selected = [0, 0, 0, 1];
    const options = { antialias: false, depth: false, stencil: false, alpha: true, premultipliedAlpha: true, powerPreference: "high-performance" };
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
    this.setSelected(this.#pick.slots ?? new Uint32Array(0));
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
    this.#pick = { slots, count: slots.length };
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

  /** Draw in the next frame; `moving`: more will follow soon. */
  draw({ moving = false } = {}) {
    this.#moving = moving;
    if (!this.#frame) this.#frame = requestAnimationFrame((time) => this.#draw(time));
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

  #draw(time) {
    this.#frame = 0;
    const gl = this.#gl;
    if (gl.isContextLost() || !this.width) return;
    this.#adapt(time);
    this.#paint(this.#moving ? Math.max(Math.min(this.#n, LEAST), Math.round(this.#n * this.#share)) : this.#n);
    clearTimeout(this.#rest);
    if (this.#moving) this.#rest = setTimeout(() => this.draw(), 140);
    else this.#last = 0;
    this.drawn(this.#moving);
  }

  // The time between frames of one movement says whether the machine keeps up.
  #adapt(time) {
    const passed = time - this.#last;
    if (this.#moving && this.#last && passed < 1000) {
      if (passed > SLOW_FRAME) this.#share = Math.max(LEAST / Math.max(LEAST, this.#n), this.#share * 0.6);
      else if (passed < FAST_FRAME) this.#share = Math.min(1, this.#share * 1.15);
    }
    this.#last = this.#moving ? time : 0;
  }

  #paint(count) {
    const gl = this.#gl;
    const at = this.#programs;
    const ratio = this.#resize();
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(at.program);
    gl.uniform2f(at.centre, this.view.x, this.view.y);
    gl.uniform2f(at.zoom, (2 * this.view.scale) / this.width, (2 * this.view.scale) / this.height);
    gl.uniform1i(at.palette, 0);
    gl.uniform1f(at.size, this.pointSize * ratio);
    gl.uniform1f(at.strength, this.#pick.count ? 0.35 : 1);
    gl.uniform4f(at.single, 0, 0, 0, 0);
    gl.drawArrays(gl.POINTS, 0, count);
    if (!this.#pick.count) return;
    this.#paintSelected(ratio);
  }

  // Once wider in one colour, and again in their own: they get an outline.
  #paintSelected(ratio) {
    const gl = this.#gl;
    const at = this.#programs;
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.picked);
    gl.uniform1f(at.strength, 1);
    gl.uniform4f(at.single, ...this.selected);
    gl.uniform1f(at.size, (this.pointSize + 2.5) * ratio);
    gl.drawElements(gl.POINTS, this.#pick.count, gl.UNSIGNED_INT, 0);
    gl.uniform4f(at.single, 0, 0, 0, 0);
    gl.uniform1f(at.size, this.pointSize * ratio);
    gl.drawElements(gl.POINTS, this.#pick.count, gl.UNSIGNED_INT, 0);
  }

  #resize() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    const width = Math.round(this.width * ratio);
    const height = Math.round(this.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    return ratio;
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
