// A picture as a model input, by the record that travels with the model: the same numbers as in Python.
// Pictures are {width, height, data}: RGB, three bytes a pixel.

import { crop, resize } from "./pillow.js";

export const MAX_PIXELS = 100_000_000;

/** Halves to even, as Python rounds. */
export function round(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

function scaled(picture, width, height, resample, pillow) {
  if (width * height > MAX_PIXELS) {
    throw new Error(`Scaling ${picture.width} × ${picture.height} pixels takes too much memory; crop the picture first.`);
  }
  return resize(picture, width, height, resample, pillow);
}

function centre(picture, width, height) {
  const left = round((picture.width - width) / 2);
  const top = round((picture.height - height) / 2);
  return crop(picture, left, top, width, height);
}

function letterbox(picture, [height, width], resample, pillow) {
  const scale = Math.min(height / picture.height, width / picture.width);
  const inner = [Math.max(1, round(picture.width * scale)), Math.max(1, round(picture.height * scale))];
  const small = scaled(picture, ...inner, resample, pillow);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < small.height; y++) {
    data.set(small.data.subarray(y * small.width * 3, (y + 1) * small.width * 3), y * width * 3);
  }
  return { width, height, data };
}

function shorter(picture, side, resample, pillow) {
  const short = Math.min(picture.width, picture.height);
  const long = round((side * Math.max(picture.width, picture.height)) / short);
  const upright = picture.height > picture.width;
  return scaled(picture, upright ? side : long, upright ? long : side, resample, pillow);
}

/** What of the picture the model sees, at the size of its input. */
export function fit(picture, record, pillow) {
  const { size, resize: rule, resample = "bilinear", multiple = 1 } = record;
  if (rule === "stretch") return scaled(picture, size[1], size[0], resample, pillow);
  if (rule === "letterbox") return letterbox(picture, size, resample, pillow);
  if (rule === "shorter") picture = shorter(picture, record.shorter, resample, pillow);
  if (size === null) {
    const width = picture.width - (picture.width % multiple);
    const height = picture.height - (picture.height % multiple);
    if (!width || !height) throw new Error(`The picture is too small; the model takes multiples of ${multiple} pixels.`);
    return centre(picture, width, height);
  }
  if (rule === "none" && (picture.height !== size[0] || picture.width !== size[1])) {
    throw new Error(
      `The picture is ${picture.width} × ${picture.height} pixels; the model takes ${size[1]} × ${size[0]} and nothing else.`,
    );
  }
  return centre(picture, size[1], size[0]);
}

function grey({ width, height, data }) {
  const out = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 3) {
    // ITU-R 601 luma in 16-bit fixed point.
    out.fill((data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16, i, i + 3);
  }
  return { width, height, data: out };
}

/** {values: Float32Array, dims, shown}: value = (pixel - mean) / std, a batch of one in the record's layout.
 * pillow: the version that Python had, as text; pictures are scaled as that one does. */
export function prepare(picture, record, pillow = "13") {
  let shown = fit(picture, record, Number.parseInt(pillow, 10));
  if (record.color === "GRAY") shown = grey(shown);
  const { width, height, data } = shown;
  const channels = record.color === "GRAY" ? 1 : 3;
  const planar = record.layout === "NCHW";
  const values = new Float32Array(channels * width * height);
  for (let c = 0; c < channels; c++) {
    const from = record.color === "BGR" ? 2 - c : c;
    for (let i = 0; i < width * height; i++) {
      values[planar ? c * width * height + i : i * channels + c] = (data[i * 3 + from] - record.mean[c]) / record.std[c];
    }
  }
  return { values, dims: planar ? [1, channels, height, width] : [1, height, width, channels], shown };
}
