// The part of a picture that is given to a model of any size: a square, moved by pointer or arrow keys.

import { draw, element } from "./picture.js";

const SIDES = [16, 24, 32, 48, 64, 96, 128];
const USUAL = 48;
const WHOLE = 128; // pixels a side up to which the whole picture is offered

export class Place {
  constructor(page) {
    this.page = page;
    this.canvas = document.getElementById("place");
    this.select = document.getElementById("window");
    this.select.addEventListener("change", () => {
      this.side = Number(this.select.value);
      this.moved();
    });
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Whether the model takes pictures of any size, which then decides how long everything takes. */
  free() {
    return this.page.model?.preprocessing.size === null;
  }

  reset() {
    const { photo } = this.page;
    document.getElementById("window-field").hidden = !this.free() || !photo;
    if (!this.free() || !photo) return;
    const short = Math.min(photo.width, photo.height);
    const sides = SIDES.filter((side) => side < short);
    const options = sides.map((side) => element("option", { value: String(side), textContent: `${side} × ${side}` }));
    if (Math.max(photo.width, photo.height) <= WHOLE || !sides.length) {
      options.push(element("option", { value: "0", textContent: `all of it, ${photo.width} × ${photo.height}` }));
    }
    this.select.replaceChildren(...options);
    const usual = Math.max(photo.width, photo.height) <= 64 ? 0 : sides.filter((side) => side <= USUAL).pop();
    this.side = usual ?? 0;
    this.select.value = String(this.side);
    this.centre = { x: photo.width / 2, y: photo.height / 2 };
    this.paint();
  }

  /** {left, top, width, height} in pixels of the picture. */
  window() {
    const { width, height } = this.page.photo;
    if (!this.free() || !this.side) return { left: 0, top: 0, width, height };
    const start = (at, limit) => Math.round(Math.min(Math.max(0, at - this.side / 2), limit - this.side));
    return { left: start(this.centre.x, width), top: start(this.centre.y, height), width: this.side, height: this.side };
  }

  /** The frame lies over the canvas, so that its line is as thin on a small picture as on a large one. */
  paint() {
    const { photo } = this.page;
    draw(this.canvas, photo);
    const frame = this.canvas.parentElement.querySelector(".frame");
    const { left, top, width, height } = this.window();
    const whole = !this.side;
    document.getElementById("window-hint").hidden = this.canvas.parentElement.hidden = frame.hidden = whole;
    for (const [side, value, size] of [["left", left, photo.width], ["top", top, photo.height], ["width", width, photo.width], ["height", height, photo.height]]) {
      frame.style[side] = `${(100 * value) / size}%`;
    }
  }

  moved() {
    this.paint();
    this.page.update();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.page.photo;
    this.centre = { x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height };
    this.moved();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step || !this.side) return;
    event.preventDefault();
    const { left, top } = this.window();
    const by = Math.max(1, this.side / 4);
    this.centre = { x: left + this.side / 2 + step[0] * by, y: top + this.side / 2 + step[1] * by };
    this.moved();
  }
}
