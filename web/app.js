// The page: a picture, a model, a class, and the maps of the chosen methods side by side.

import { Classes } from "./classes.js";
import { Engine, defaultThreads, float32, int64, normal } from "./engine.js";
import { Explorer } from "./explorer.js";
import { npy, save } from "./npy.js";
import { crop } from "./pillow.js";
import { decode, draw, element } from "./picture.js";
import { prepare } from "./preprocess.js";
import { lone, picture as drawn, probabilities } from "./readout.js";
import { Votes } from "./votes.js";
import { Place } from "./place.js";

const SCHEMA = 1;
const TOP = 5;
const RUNS = 5;
const at = (id) => document.getElementById(id);
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

class Page {
  constructor(manifest, engine) {
    this.manifest = manifest;
    this.engine = engine;
    this.turn = 0;
    this.target = -1;
    this.mode = "method";
    this.results = new Map();
    this.classes = new Classes(at("class"), at("class-list"), (index) => this.aim(index));
    this.explorer = new Explorer(this);
    this.votes = new Votes(this);
    this.place = new Place(this);
  }

  start() {
    at("model").replaceChildren(
      ...this.manifest.models.map((model, i) => element("option", { value: String(i), textContent: model.name })),
    );
    at("model").addEventListener("change", () => this.choose(Number(at("model").value)));
    at("model-field").hidden = this.manifest.models.length < 2;
    at("file").addEventListener("change", () => at("file").files[0] && this.take(at("file").files[0]));
    for (const radio of document.querySelectorAll("[name=mode]")) {
      radio.addEventListener("change", () => this.restyle(radio.value));
    }
    at("opacity").addEventListener("input", () => this.fade());
    at("measure").addEventListener("click", () => this.measure());
    this.dropping();
    this.samples();
    this.webgpu();
    at("about").textContent = `onnxplain ${this.manifest.onnxplain}, ${this.manifest.runtime.name} ${this.manifest.runtime.version}`;
    at("main").hidden = false;
    this.choose(0);
    this.tell("");
  }

  dropping() {
    const body = document.body;
    body.addEventListener("dragover", (event) => {
      event.preventDefault();
      body.classList.add("over");
    });
    body.addEventListener("dragleave", () => body.classList.remove("over"));
    body.addEventListener("drop", (event) => {
      event.preventDefault();
      body.classList.remove("over");
      const file = event.dataTransfer.files[0];
      if (file) this.take(file);
    });
    body.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file) this.take(file);
    });
  }

  samples() {
    const buttons = this.manifest.photos.map(({ file, name }) => {
      const image = element("img", { src: file, alt: "", loading: "lazy" });
      const button = element("button", { type: "button", title: name, "aria-label": name }, image);
      button.addEventListener("click", () => this.sample(file));
      return button;
    });
    at("photos").replaceChildren(...buttons);
    at("photos").hidden = buttons.length === 0;
  }

  async sample(file) {
    await this.guarded(async () => {
      const reply = await fetch(file);
      if (!reply.ok) throw new Error(`${file}: the server answered ${reply.status}`);
      await this.take(await reply.blob());
    });
  }

  webgpu() {
    const offered = this.manifest.runtime.webgpu && "gpu" in navigator;
    at("webgpu-label").hidden = !offered;
    at("webgpu").addEventListener("change", () => {
      this.engine.accelerate(at("webgpu").checked);
      this.update();
    });
    const { threads } = this.engine;
    at("engine").textContent = `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  }

  choose(index) {
    this.model = this.manifest.models[index];
    const maps = this.maps();
    this.chosen = new Set(maps.slice(0, 4).map(({ file }) => file));
    this.target = -1;
    this.classes.load(this.model.labels, this.model.output.shape.length === 2 ? this.model.output.shape[1] : null);
    this.classes.show(-1);
    at("methods").replaceChildren(...maps.map((entry) => this.switch(entry)));
    for (const id of ["methods-field", "mode-field", "measure"]) at(id).hidden = maps.length === 0;
    at("class-field").hidden = !this.classes.names.length || !maps.length;
    this.place.reset();
    at("figures").replaceChildren();
    if (this.model.guessed) this.tell("The file does not say how its pictures are prepared: pixels go in as 0 to 1.");
    this.update();
  }

  maps() {
    return this.model.methods.filter(({ kind }) => kind === "map");
  }

  switch(entry) {
    const box = element("input", { type: "checkbox", checked: this.chosen.has(entry.file) });
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(entry.file);
      else this.chosen.delete(entry.file);
      this.update();
    });
    return element("label", { title: entry.title }, box, ` ${entry.method}`);
  }

  async take(blob) {
    await this.guarded(async () => {
      this.photo = await decode(blob);
      this.place.reset();
      await this.update();
    });
  }

  aim(index) {
    this.target = index;
    this.classes.show(index);
    this.update();
  }

  tell(text) {
    at("status").textContent = text;
  }

  /** What fails is said on the page, and the page goes on. */
  async guarded(work) {
    at("error").hidden = true;
    try {
      await work();
    } catch (error) {
      at("error").textContent = error.message;
      at("error").hidden = false;
      this.tell("");
    }
  }

  /** picture: the feeds of an entry that has a state, which is kept for as long as nothing else is explained. */
  run(entry, feeds, picture) {
    const state = entry.state && { file: entry.state.file, key: this.turn, feeds: picture };
    return this.engine.run(entry, this.model.weights.file, feeds, state);
  }

  /** {picture: feed} of the prepared picture; a copy, since results are shared with the worker. */
  feed() {
    return { [this.model.input.name]: float32(this.prepared.values, this.prepared.dims) };
  }

  /** Everything again for the picture, model, class and methods of now; what an older turn finds is dropped. */
  async update() {
    const turn = ++this.turn;
    this.results.clear();
    document.body.dataset.state = "busy";
    if (!this.photo) return;
    at("empty").hidden = true;
    await this.guarded(async () => {
      const { left, top, width, height } = this.place.window();
      this.prepared = prepare(crop(this.photo, left, top, width, height), this.model.preprocessing, this.manifest.pillow);
      this.tell("Running the model…");
      const forward = await this.run(this.model.forward, this.feed());
      if (turn !== this.turn) return;
      this.forward = { ...forward.outputs[this.model.output.name], ms: forward.ms };
      this.scores();
      this.explorer.refresh();
      this.votes.refresh();
      await this.explain(turn);
    });
    if (turn === this.turn) document.body.dataset.state = "idle";
  }

  async explain(turn) {
    const entries = this.maps().filter(({ file }) => this.chosen.has(file));
    if (entries.length) this.lay(entries);
    for (const entry of entries) {
      this.tell(`Explaining with ${entry.method}…`);
      const found = await this.run(entry, this.feeds(entry));
      if (turn !== this.turn) return;
      const attribution = found.outputs.attribution;
      this.results.set(entry.file, { entry, attribution, ms: found.ms, note: found.note, backend: found.backend });
      this.draw(entry);
    }
    this.tell("");
  }

  feeds(entry) {
    const feeds = this.feed();
    if (entry.target === "input") feeds.target = int64([this.target], [1, 1]);
    if (entry.noise) {
      const dims = [entry.noise, ...this.prepared.dims.slice(1)];
      feeds.noise = float32(normal(dims.reduce((a, b) => a * b), entry.options.seed ?? 0), dims);
    }
    return feeds;
  }

  explained() {
    const { values } = this.forward;
    return this.target >= 0 ? this.target : values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  }

  scores() {
    if (this.forward.dims.length > 2) return at("top").replaceChildren();
    this.shares = probabilities(this.forward.values, this.model.output.squash);
    const order = [...this.shares.keys()].sort((a, b) => this.shares[b] - this.shares[a]).slice(0, TOP);
    at("top").replaceChildren(...order.map((index) => this.score(index)));
  }

  score(index) {
    const fill = element("span", { className: "fill" });
    fill.style.width = this.alone() ? "0" : `${100 * this.shares[index]}%`;
    const button = element(
      "button",
      { type: "button", ariaPressed: String(index === this.explained()) },
      fill,
      element("span", { textContent: this.classes.name(index) }),
      element("span", { className: "value", textContent: this.said(index) }),
    );
    button.addEventListener("click", () => this.aim(index));
    return element("li", {}, button);
  }

  alone() {
    return lone(this.forward.values, this.model.output.squash);
  }

  /** The probability of a class; of a model with one number that number. */
  said(index) {
    const share = this.shares[index];
    return this.alone() ? String(Number(share.toPrecision(4))) : `${(100 * share).toFixed(1)} %`;
  }

  /** The photo as the model sees it, and a figure for every method, filled as the maps come. */
  lay(entries) {
    const photo = element("canvas", { role: "img", "aria-label": "The picture as the model sees it" });
    draw(photo, this.prepared.shown);
    const told = element("span", { className: "told", textContent: `forward ${milliseconds(this.forward.ms)}` });
    const first = element(
      "figure",
      { id: "photo-figure" },
      element("div", { className: "stack" }, photo),
      element("figcaption", {}, element("b", { textContent: "what the model sees" }), told),
    );
    const kept = new Map([...at("figures").children].map((figure) => [figure.dataset.file, figure]));
    at("figures").replaceChildren(first, ...entries.map((entry) => kept.get(entry.file) ?? this.figure(entry)));
    for (const entry of entries) {
      const figure = this.figureOf(entry);
      figure.classList.add("busy");
      draw(figure.querySelector(".under"), this.prepared.shown);
    }
    this.fade();
  }

  figure(entry) {
    const label = `Map of ${entry.method}`;
    const button = element("button", { type: "button", textContent: "Save numbers (.npy)" });
    button.addEventListener("click", () => save(npy(this.results.get(entry.file).attribution), `${entry.name}.npy`));
    const figure = element(
      "figure",
      { className: "busy" },
      element(
        "div",
        { className: "stack" },
        element("canvas", { className: "under" }),
        element("canvas", { className: "map", role: "img", "aria-label": label }),
      ),
      element("div", { className: "legend" }),
      element("div", { className: "ends" }, element("span"), element("span")),
      element(
        "figcaption",
        {},
        element("b", { textContent: entry.method, title: entry.title }),
        element("span", { className: "told" }),
        element("div", {}, button),
      ),
    );
    figure.dataset.file = entry.file;
    figure.dataset.method = entry.method;
    return figure;
  }

  figureOf(entry) {
    return [...at("figures").children].find((figure) => figure.dataset.file === entry.file);
  }

  draw(entry) {
    const figure = this.figureOf(entry);
    const result = this.results.get(entry.file);
    if (!figure || !result) return;
    const { pixels, legend } = drawn(result.attribution, this.model.preprocessing, entry.display, this.mode);
    draw(figure.querySelector(".map"), pixels);
    figure.querySelector(".legend").className = `legend ${legend}`;
    const [low, high] = figure.querySelector(".ends").children;
    [low.textContent, high.textContent] = legend === "jet" ? ["low", "high"] : ["negative", "positive"];
    const index = this.explained();
    const share = this.forward.dims.length > 2 ? "" : ` ${this.said(index)}`;
    const note = [milliseconds(result.ms), result.backend === "webgpu" ? "WebGPU" : "", result.note];
    figure.querySelector(".told").textContent = `${this.classes.name(index)}${share} · ${note.filter(Boolean).join(", ")}`;
    figure.classList.remove("busy");
  }

  restyle(mode) {
    this.mode = mode;
    for (const { entry } of this.results.values()) this.draw(entry);
  }

  fade() {
    const { value } = at("opacity");
    at("opacity-value").textContent = `${value} %`;
    for (const map of document.querySelectorAll(".map")) map.style.opacity = value / 100;
  }

  /** The shortest of a few runs, of the forward pass and of every explanation, turn by turn. */
  async measure() {
    if (!this.prepared || !this.forward) return;
    await this.guarded(async () => {
      at("measure").disabled = true;
      const entries = [...this.results.values()].map(({ entry }) => entry);
      const best = new Map();
      const note = (key, ms) => best.set(key, Math.min(ms, best.get(key) ?? Infinity));
      for (let i = 1; i <= RUNS; i++) {
        this.tell(`Measuring, ${i} of ${RUNS}…`);
        note("forward", (await this.run(this.model.forward, this.feed())).ms);
        for (const entry of entries) note(entry.file, (await this.run(entry, this.feeds(entry))).ms);
      }
      const forward = best.get("forward");
      document.querySelector("#photo-figure .told").textContent = `forward ${milliseconds(forward)}, best of ${RUNS}`;
      for (const entry of entries) {
        const figure = this.figureOf(entry);
        if (!figure) continue;
        const times = best.get(entry.file) / forward;
        figure.dataset.times = times.toFixed(3);
        figure.querySelector(".told").textContent = `${milliseconds(best.get(entry.file))}, ${times.toFixed(1)} × the forward pass`;
      }
      this.tell("");
    }).finally(() => (at("measure").disabled = false));
  }
}

async function begin() {
  const reply = await fetch("manifest.json");
  if (!reply.ok) throw new Error(`manifest.json: the server answered ${reply.status}`);
  const manifest = await reply.json();
  if (manifest.schema !== SCHEMA) throw new Error("The manifest is of another version of onnxplain; export the folder again.");
  const engine = new Engine(defaultThreads(new URLSearchParams(location.search).get("threads")));
  new Page(manifest, engine).start();
}

begin().catch((error) => {
  at("status").textContent = "";
  at("error").textContent = error.message;
  at("error").hidden = false;
});
