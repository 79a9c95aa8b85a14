// LinearScope, live: a pixel of the output shows its receptive filter (a row of F, over the input), a pixel of the input
// its projective filter (a column of F, over the output). For a classifier the output is a list of classes.

import { float32 } from "./engine.js";
import { npy, save } from "./npy.js";
import { draw, element } from "./picture.js";
import { backProjection, outputPicture, sides, support } from "./readout.js";

const CLIP = 99.9; // percentile of magnitude in full colour: filters are mostly 0
const LISTED = 8;
const at = (id) => document.getElementById(id);

/** Runs the newest request and drops those that came while another was running. */
class Newest {
  constructor(work) {
    this.work = work;
    this.pending = null;
    this.running = false;
  }

  async ask(request) {
    this.pending = request;
    if (this.running) return;
    this.running = true;
    while (this.pending !== null) {
      const now = this.pending;
      this.pending = null;
      await this.work(now);
    }
    this.running = false;
  }
}

/** A tensor of zeros with ones at a pixel: in one channel, or in all (channel -1). */
export function unit(dims, layout, { x, y, channel }) {
  const values = new Float32Array(dims.reduce((a, b) => a * b));
  const { height, width, channels } = sides({ dims }, layout);
  for (let c = 0; c < channels; c++) {
    if (channel >= 0 && channel !== c) continue;
    values[layout === "NHWC" ? (y * width + x) * channels + c : (c * height + y) * width + x] = 1;
  }
  return float32(values, dims);
}

export class Explorer {
  constructor(page) {
    this.page = page;
    this.channel = -1;
    this.probes = { row: null, column: null };
    this.found = { row: null, column: null };
    this.queues = {
      row: new Newest((probe) => this.compute("row", probe)),
      column: new Newest((probe) => this.compute("column", probe)),
    };
    this.listen(at("output"), "row");
    this.listen(at("input"), "column");
    at("channel").addEventListener("change", () => {
      this.channel = Number(at("channel").value);
      this.again();
    });
    at("enlarge").addEventListener("change", () => this.show());
    for (const kind of ["row", "column"]) at(`save-${kind}`).addEventListener("click", () => this.save(kind));
  }

  entry(kind) {
    return this.page.model.methods.find((method) => method.kind === kind);
  }

  /** The figures of a picture and a model; the probes start in the middle, or at the top class. */
  refresh() {
    const rows = this.entry("rows");
    const columns = this.entry("columns");
    at("explorer").hidden = !rows && !columns;
    if (!rows && !columns) return;
    const { forward, prepared, model } = this.page;
    this.pictorial = forward.dims.length === 4;
    this.found = { row: null, column: null };
    draw(at("input"), prepared.shown);
    if (this.pictorial) draw(at("output"), outputPicture(forward, model.preprocessing, model.output.range));
    for (const [id, shown] of [["row-figure", rows], ["column-figure", columns], ["output-stack", this.pictorial], ["scores", !this.pictorial], ["column", this.pictorial], ["changes", !this.pictorial]]) {
      at(id).hidden = !shown;
    }
    this.words(rows, columns);
    this.channels();
    this.probes = { row: rows ? this.first(forward.dims) : null, column: columns ? this.first(prepared.dims) : null };
    if (!this.pictorial) this.list();
    this.again();
  }

  words(rows, columns) {
    const output = this.pictorial ? "Point at a pixel of the output" : "Point at a class";
    const help = [
      rows ? `${output} to see its receptive filter: what it takes from the input, a row of F.` : "",
      columns ? "Point at a pixel of the input to see its projective filter: what it does to the output, a column of F." : "",
      "Grey is 0.",
    ];
    at("explorer-help").textContent = help.filter(Boolean).join(" ");
  }

  save(kind) {
    if (this.found[kind]) save(npy(this.found[kind].tensor), `${this.entry(`${kind}s`).name}.npy`);
  }

  channels() {
    const { channels } = sides({ dims: this.page.prepared.dims }, this.page.model.preprocessing.layout);
    const names = channels === 3 ? [...this.page.model.preprocessing.color] : Array.from({ length: channels }, (_, i) => i);
    at("channel").replaceChildren(
      element("option", { value: "-1", textContent: "all" }),
      ...names.map((name, i) => element("option", { value: String(i), textContent: String(name) })),
    );
    if (this.channel >= channels) this.channel = -1;
    at("channel").value = String(this.channel);
  }

  first(dims) {
    if (dims.length === 2) return { index: this.page.explained() };
    const { width, height } = sides({ dims }, this.page.model.preprocessing.layout);
    return { x: width >> 1, y: height >> 1 };
  }

  list() {
    const { forward, shares } = this.page;
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, LISTED);
    const lines = order.map((index) => {
      const button = element("button", { type: "button" });
      button.append(
        element("span", { textContent: this.page.classes.name(index) }),
        element("span", { className: "value", textContent: forward.values[index].toFixed(2) }),
      );
      button.dataset.index = index;
      for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, () => this.probe("row", { index }));
      return element("li", {}, button);
    });
    at("scores").replaceChildren(...lines);
  }

  listen(canvas, kind) {
    const move = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      this.probe(kind, { x, y });
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || !this.probes[kind]) return;
      event.preventDefault();
      this.probe(kind, { x: this.probes[kind].x + step[0], y: this.probes[kind].y + step[1] });
    });
  }

  probe(kind, wanted) {
    if (!this.probes[kind]) return;
    const canvas = at(kind === "row" ? "output" : "input");
    const inside = (value, limit) => Math.min(Math.max(0, value), limit - 1);
    const probe = "index" in wanted ? wanted : { x: inside(wanted.x, canvas.width), y: inside(wanted.y, canvas.height) };
    const old = this.probes[kind];
    if (old.x === probe.x && old.y === probe.y && old.index === probe.index) return;
    this.probes[kind] = probe;
    this.marks();
    this.queues[kind].ask(probe);
  }

  again() {
    this.marks();
    for (const kind of ["row", "column"]) if (this.probes[kind]) this.queues[kind].ask(this.probes[kind]);
  }

  async compute(kind, probe) {
    await this.page.guarded(async () => {
      const { page } = this;
      const { turn } = page;
      const { layout } = page.model.preprocessing;
      const dims = kind === "row" ? page.forward.dims : page.prepared.dims;
      const ones = "index" in probe ? oneHot(dims, probe.index) : unit(dims, layout, { ...probe, channel: this.channel });
      const feeds = { [kind === "row" ? "cotangent" : "tangent"]: ones };
      const { outputs, ms } = await page.run(this.entry(`${kind}s`), feeds, page.feed());
      if (turn !== page.turn) return;
      this.found[kind] = { tensor: outputs[kind === "row" ? "attribution" : "response"], probe, ms };
      this.show();
    });
  }

  show() {
    if (this.found.row) this.filter("row", "receptive filter: a row of F");
    if (!this.found.column) return;
    if (this.pictorial) this.filter("column", "projective filter: a column of F");
    else this.changes();
  }

  filter(kind, title) {
    const { tensor, probe, ms } = this.found[kind];
    const { preprocessing } = this.page.model;
    let pixels = backProjection(tensor, preprocessing, CLIP);
    if (at("enlarge").checked) pixels = cut(pixels, support(tensor, preprocessing.layout));
    draw(at(kind), pixels);
    const place = "index" in probe ? this.page.classes.name(probe.index) : `y ${probe.y}, x ${probe.x}`;
    at(kind).setAttribute("aria-label", `${title}, at ${place}`);
    at(`${kind}-caption`).textContent = `${title}, at ${place}, ${Math.round(ms)} ms`;
    at(kind).dataset.at = "index" in probe ? probe.index : `${probe.y},${probe.x}`;
  }

  /** A column of a classifier: what one pixel does to the scores. */
  changes() {
    const { tensor, probe, ms } = this.found.column;
    const order = [...tensor.values.keys()].sort((a, b) => Math.abs(tensor.values[b]) - Math.abs(tensor.values[a]));
    const most = Math.abs(tensor.values[order[0]]) || 1;
    const lines = order.slice(0, LISTED).map((index) => {
      const fill = element("span", { className: "fill" });
      fill.style.width = `${(100 * Math.abs(tensor.values[index])) / most}%`;
      const value = element("span", { className: "value", textContent: tensor.values[index].toExponential(2) });
      return element("li", { className: "line" }, fill, element("span", { textContent: this.page.classes.name(index) }), value);
    });
    at("changes").replaceChildren(...lines);
    at("column-caption").textContent = `projective filter: a column of F, at y ${probe.y}, x ${probe.x}, ${Math.round(ms)} ms`;
  }

  marks() {
    ring(at("input"), this.probes.column);
    if (this.pictorial) ring(at("output"), this.probes.row);
    for (const button of at("scores").querySelectorAll("button")) {
      button.ariaPressed = String(Number(button.dataset.index) === this.probes.row?.index);
    }
  }
}

function oneHot(dims, index) {
  const values = new Float32Array(dims.reduce((a, b) => a * b));
  values[index] = 1;
  return float32(values, dims);
}

function cut({ width, data }, { left, top, width: w, height: h }) {
  const out = new Uint8ClampedArray(w * h * 4);
  for (let y = 0; y < h; y++) {
    const start = ((top + y) * width + left) * 4;
    out.set(data.subarray(start, start + w * 4), y * w * 4);
  }
  return { width: w, height: h, data: out };
}

/** A ring over the middle of a pixel; it is no part of the picture, so it has the same size on every one. */
function ring(canvas, probe) {
  const mark = canvas.parentElement.querySelector(".ring");
  mark.hidden = !probe || "index" in probe;
  if (mark.hidden) return;
  mark.style.left = `${(100 * (probe.x + 0.5)) / canvas.width}%`;
  mark.style.top = `${(100 * (probe.y + 0.5)) / canvas.height}%`;
}
