// Which class every pixel votes for, of those with the highest scores (a file of linearscope.votes).

import { int64 } from "./engine.js";
import { draw, element } from "./picture.js";

const CANDIDATES = 8;
const COLOURS = [[220, 50, 47], [38, 139, 210], [133, 153, 0], [203, 136, 22], [108, 113, 196], [42, 161, 152], [211, 54, 130], [120, 85, 60]];
const at = (id) => document.getElementById(id);

/** Pixels for each class, in the order of `classes`. */
export function count(votes, classes) {
  const counts = new Map(classes.map((index) => [index, 0]));
  for (const vote of votes) counts.set(Number(vote), counts.get(Number(vote)) + 1);
  return counts;
}

export class Votes {
  constructor(page) {
    this.page = page;
    at("votes-run").addEventListener("click", () => this.run());
  }

  entry() {
    return this.page.model.methods.find(({ kind }) => kind === "votes");
  }

  refresh() {
    at("votes").hidden = !this.entry() || this.page.forward.dims.length !== 2;
    at("votes-list").replaceChildren();
    at("votes-map").hidden = true;
  }

  async run() {
    const { page } = this;
    await page.guarded(async () => {
      const { turn, forward } = page;
      const order = [...forward.values.keys()].sort((a, b) => forward.values[b] - forward.values[a]);
      const classes = order.slice(0, CANDIDATES);
      page.tell("Counting the votes…");
      const { outputs } = await page.run(this.entry(), { ...page.feed(), classes: int64(classes, [classes.length, 1]) });
      if (turn !== page.turn) return;
      this.show(outputs.votes, classes);
      page.tell("");
    });
  }

  show({ values, dims }, classes) {
    const [, height, width] = dims;
    const counts = count(values, classes);
    const ranked = [...classes].sort((a, b) => counts.get(b) - counts.get(a));
    const colour = new Map(ranked.map((index, i) => [index, COLOURS[i]]));
    const data = new Uint8ClampedArray(width * height * 3);
    values.forEach((vote, i) => data.set(colour.get(Number(vote)), i * 3));
    at("votes-map").hidden = false;
    draw(at("votes-map"), { width, height, data });
    at("votes-list").replaceChildren(
      ...ranked.filter((index) => counts.get(index)).map((index) => this.line(index, colour.get(index), counts.get(index) / values.length)),
    );
  }

  line(index, colour, share) {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${colour.join(" ")})`;
    const line = element("li", { className: "line" }, swatch, element("span", { textContent: this.page.classes.name(index) }));
    line.append(element("span", { className: "value", textContent: `${(100 * share).toFixed(1)} %` }));
    line.dataset.class = index;
    return line;
  }
}
