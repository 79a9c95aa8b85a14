// Resizing as Pillow does it, to the bit: separable filters that widen when they shrink, weights in fixed point with
// 22 bits behind the point, and 8-bit pixels between the two passes.
// Pictures are {width, height, data}: RGB, three bytes a pixel, rows from the top.

const BITS = 22;

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const FILTERS = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { reach: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For every output position the first input position and the integer weights from there on. */
export function taps(from, to, resample) {
  const { reach, weight } = FILTERS[resample];
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const support = reach * widened;
  const found = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const values = [];
    let total = 0;
    for (let x = first; x < last; x++) {
      const value = weight((x - centre + 0.5) * (1 / widened));
      values.push(value);
      total += value;
    }
    const weights = values.map((value) => {
      const part = total === 0 ? value : value / total;
      return Math.trunc(part * 2 ** BITS + (part < 0 ? -0.5 : 0.5));
    });
    found.push({ first, weights });
  }
  return found;
}

function clip(sum) {
  const value = Math.floor(sum / 2 ** BITS);
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** One pass. step: bytes from one tap to the next; lines: bytes from one line to the next, in and out. */
function pass(data, out, found, lines, count, step, lineIn, lineOut) {
  for (let line = 0; line < count; line++) {
    for (let i = 0; i < lines; i++) {
      const { first, weights } = found[i];
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** (BITS - 1);
        let at = line * lineIn + first * step + c;
        for (let k = 0; k < weights.length; k++, at += step) sum += data[at] * weights[k];
        out[line * lineOut + i * step + c] = clip(sum);
      }
    }
  }
}

function widths({ width, height, data }, to, resample) {
  const out = new Uint8ClampedArray(to * height * 3);
  pass(data, out, taps(width, to, resample), to, height, 3, width * 3, to * 3);
  return { width: to, height, data: out };
}

function heights({ width, height, data }, to, resample) {
  const out = new Uint8ClampedArray(width * to * 3);
  pass(data, out, taps(height, to, resample), to, width, width * 3, 3, 3);
  return { width, height: to, data: out };
}

/** Input position of every output position: steps are added up, as Pillow does, not multiplied. */
function nearestPlaces(from, to) {
  const step = from / to;
  const places = [];
  for (let i = 0, at = step * 0.5; i < to; i++, at += step) places.push(Math.min(from - 1, Math.floor(at)));
  return places;
}

function nearest({ width, height, data }, toWidth, toHeight) {
  const out = new Uint8ClampedArray(toWidth * toHeight * 3);
  const columns = nearestPlaces(width, toWidth);
  const rows = nearestPlaces(height, toHeight);
  for (let y = 0, at = 0; y < toHeight; y++) {
    for (let x = 0; x < toWidth; x++, at += 3) {
      const from = (rows[y] * width + columns[x]) * 3;
      out[at] = data[from];
      out[at + 1] = data[from + 1];
      out[at + 2] = data[from + 2];
    }
  }
  return { width: toWidth, height: toHeight, data: out };
}

/** Whether the rows are reduced first. Pillow does so from version 13 on, where that drops more than twice as many
 * rows as columns; before, never. Pixels are rounded between the passes, so the order shows in the last bit. */
function rowsFirst(picture, width, height, version) {
  const dropped = picture.height - height;
  return version >= 13 && dropped > 0 && dropped > 2 * (picture.width - width);
}

/** The picture with that size. resample: nearest, bilinear, bicubic or lanczos. version: of Pillow, its first number. */
export function resize(picture, width, height, resample, version = 13) {
  if (picture.width === width && picture.height === height) return picture;
  if (resample === "nearest") return nearest(picture, width, height);
  const passes = [
    (made) => (made.width === width ? made : widths(made, width, resample)),
    (made) => (made.height === height ? made : heights(made, height, resample)),
  ];
  if (rowsFirst(picture, width, height, version)) passes.reverse();
  return passes.reduce((made, pass) => pass(made), picture);
}

/** The rectangle of that size at (left, top); it must lie in the picture. */
export function crop(picture, left, top, width, height) {
  const out = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * picture.width + left) * 3;
    out.set(picture.data.subarray(start, start + width * 3), y * width * 3);
  }
  return { width, height, data: out };
}
