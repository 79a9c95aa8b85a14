// A field in which classes are searched by name or number: the combobox pattern of ARIA, with a list below.

import { element } from "./picture.js";

const MOST = 60;

export class Classes {
  /** pick: called with a class, or -1 for the top class. */
  constructor(field, list, pick) {
    this.field = field;
    this.list = list;
    this.pick = pick;
    this.names = [];
    this.active = -1;
    field.addEventListener("input", () => this.open());
    field.addEventListener("focus", () => field.select());
    field.addEventListener("click", () => this.open(""));
    field.addEventListener("blur", () => this.close());
    field.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const option = event.target.closest("[role=option]");
      if (option) this.choose(Number(option.dataset.index));
    });
  }

  load(names, size) {
    this.names = names ?? Array.from({ length: size ?? 0 }, (_, i) => `class ${i}`);
  }

  /** With the number where several classes have the name: ImageNet has two cranes. */
  name(index) {
    if (index < 0) return "top class";
    const name = this.names[index] ?? `class ${index}`;
    return this.names.indexOf(name) === this.names.lastIndexOf(name) ? name : `${name} (${index})`;
  }

  show(index) {
    this.shown = index;
    this.field.value = this.name(index);
  }

  matches(text) {
    const words = text.trim().toLowerCase();
    const found = words === "" || "top class".includes(words) ? [-1] : [];
    for (let i = 0; i < this.names.length && found.length < MOST; i++) {
      if (this.names[i].toLowerCase().includes(words) || String(i) === words) found.push(i);
    }
    return found;
  }

  /** Classes of this very name. */
  twins(text) {
    const name = text.trim().toLowerCase();
    return this.names.filter((known) => known.toLowerCase() === name).length;
  }

  open(text = this.field.value) {
    const options = this.matches(text).map((index, place) =>
      element("li", {
        role: "option",
        id: `class-option-${place}`,
        textContent: index < 0 ? "top class" : `${this.names[index]} (${index})`,
      }),
    );
    this.matches(text).forEach((index, place) => (options[place].dataset.index = index));
    this.list.replaceChildren(...options);
    this.list.hidden = options.length === 0;
    this.field.setAttribute("aria-expanded", String(options.length > 0));
    this.mark(-1);
  }

  close() {
    this.list.hidden = true;
    this.field.setAttribute("aria-expanded", "false");
    this.field.removeAttribute("aria-activedescendant");
    if (this.shown !== undefined) this.show(this.shown);
  }

  mark(place) {
    this.active = place;
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    const option = this.list.children[place];
    if (!option) return this.field.removeAttribute("aria-activedescendant");
    this.field.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const count = this.list.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (this.list.hidden) return this.open("");
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.mark((Math.max(this.active, step < 0 ? 0 : -1) + step + count) % count);
    } else if (event.key === "Enter" && !this.list.hidden && count) {
      event.preventDefault();
      if (this.active < 0 && this.twins(this.field.value) > 1) return; // which one is meant, the list has to say
      this.choose(Number(this.list.children[Math.max(0, this.active)].dataset.index));
    } else if (event.key === "Escape") {
      this.close();
    }
  }

  choose(index) {
    this.show(index);
    this.close();
    this.pick(index);
  }
}
