// Attributions to maps, maps to colours; the readouts and scales of Python's render module.
// A tensor is {values, dims} with four dimensions and a batch of one; pixels are RGBA bytes.

/** Interpolated linearly between ranks. */
export function percentile(values, q) {
  const sorted = Float64Array.from(values).sort();
  const at = ((sorted.length - 1) * q) / 100;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

export function sides({ dims }, layout) {
  const [, a, b, c] = dims;
  return layout === "NHWC" ? { height: a, width: b, channels: c } : { channels: a, height: b, width: c };
}

/** Value of channel c at pixel i. */
function reader(tensor, layout) {
  const { height, width, channels } = sides(tensor, layout);
  const { values } = tensor;
  const plane = height * width;
  return layout === "NHWC" ? (c, i) => values[i * channels + c] : (c, i) => values[c * plane + i];
}

/** Over the channels: "maxabs", "sum", "mean" or "abssum". {values, width, height} */
export function reduce(tensor, layout, kind) {
  const { height, width, channels } = sides(tensor, layout);
  const read = reader(tensor, layout);
  const values = new Float64Array(height * width);
  for (let i = 0; i < values.length; i++) {
    let total = 0;
    for (let c = 0; c < channels; c++) {
      const value = read(c, i);
      if (kind === "maxabs") total = Math.max(total, Math.abs(value));
      else total += kind === "abssum" ? Math.abs(value) : value;
    }
    values[i] = kind === "mean" ? total / channels : total;
  }
  return { values, width, height };
}

function largest(values) {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

/** The percentile of magnitudes; the maximum where that is 0, 1 where all is 0. */
export function reach(values, q) {
  return percentile(Float64Array.from(values, Math.abs), q) || largest(values) || 1;
}

const SEGMENTS = [
  [[0, 0.35, 0.66, 0.89, 1], [0, 0, 1, 1, 0.5]],
  [[0, 0.125, 0.375, 0.64, 0.91, 1], [0, 0, 1, 1, 0, 0]],
  [[0, 0.11, 0.34, 0.65, 1], [0.5, 1, 1, 0, 0]],
];

function along([x, y], at) {
  const i = x.findIndex((edge, k) => k > 0 && at <= edge);
  return y[i - 1] + ((y[i] - y[i - 1]) * (at - x[i - 1])) / (x[i] - x[i - 1]);
}

const JET = Array.from({ length: 256 }, (_, i) => SEGMENTS.map((segment) => along(segment, i / 255)));

/** [0, 1] -> jet. */
export function jet(value) {
  return JET[Math.min(255, Math.floor(256 * Math.min(1, Math.max(0, value))))];
}

/** [-1, 1] -> blue over white, at 0, to red. */
export function signedColour(value) {
  const v = Math.min(1, Math.max(-1, value));
  return [1 + Math.min(v, 0), 1 - Math.abs(v), 1 - Math.max(v, 0)];
}

function painted(width, height, colour) {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < width * height; i++) {
    const rgb = colour(i);
    for (let c = 0; c < 3; c++) data[i * 4 + c] = Math.round(Math.min(1, Math.max(0, rgb[c])) * 255);
    data[i * 4 + 3] = 255;
  }
  return { width, height, data };
}

/** From the minimum to the percentile, in jet. */
export function heat({ values, width, height }, q = 99) {
  let low = Infinity;
  let most = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    most = Math.max(most, value);
  }
  const high = percentile(values, q);
  const range = (high > low ? high : most) - low;
  return painted(width, height, (i) => jet(range > 0 ? (values[i] - low) / range : 0));
}

/** White at 0, red above, blue below; full colour from the percentile of magnitudes on. */
export function signed({ values, width, height }, q = 99) {
  const scale = reach(values, q);
  return painted(width, height, (i) => signedColour(values[i] / scale));
}

/** The attribution itself as a colour picture around mid-grey. */
export function backProjection(tensor, { layout, color }, q = 99) {
  const { width, height, channels } = sides(tensor, layout);
  const read = reader(tensor, layout);
  const scale = 2 * reach(tensor.values, q);
  const order = channels === 1 ? [0, 0, 0] : color === "BGR" ? [2, 1, 0] : [0, 1, 2];
  return painted(width, height, (i) => order.map((c) => read(c, i) / scale + 0.5));
}

/** An output as a picture; range: the values that are black and white, stretched where it is not known. */
export function outputPicture(tensor, { layout, color }, range) {
  const { width, height, channels } = sides(tensor, layout);
  const read = reader(tensor, layout);
  let { low, high } = range ?? { low: Infinity, high: -Infinity };
  if (!range) {
    for (const value of tensor.values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  const order = channels === 1 ? [0, 0, 0] : color === "BGR" ? [2, 1, 0] : [0, 1, 2];
  return painted(width, height, (i) => order.map((c) => (read(c, i) - low) / (high - low || 1)));
}

/** How a method is shown. mode: "method" (as its papers do), "signed" or "absolute". legend: what its colours mean. */
export function picture(tensor, record, display, mode) {
  const { layout } = record;
  if (mode === "absolute") return { pixels: heat(reduce(tensor, layout, "maxabs")), legend: "jet" };
  if (mode === "signed") return { pixels: signed(reduce(tensor, layout, "sum")), legend: "signed" };
  if (display === "centre") return { pixels: backProjection(tensor, record), legend: "grey" };
  if (display === "sum,sym") return { pixels: signed(reduce(tensor, layout, "sum")), legend: "signed" };
  if (display === "sym") return { pixels: signed(reduce(tensor, layout, "mean")), legend: "signed" };
  return { pixels: heat(reduce(tensor, layout, "maxabs"), display === "max" ? 100 : 99), legend: "jet" };
}

/** Whether an output is one number that is no probability: a regression, a binary logit. It is shown as it is. */
export function lone(values, squash) {
  return values.length === 1 && !squash;
}

/** Of the output of a classifier. squash: the operator at its end, as far as the file says. */
export function probabilities(values, squash) {
  const v = Float64Array.from(values);
  if (squash === "LogSoftmax") return v.map(Math.exp);
  const low = v.reduce((a, b) => Math.min(a, b), Infinity);
  const sum = v.reduce((a, b) => a + b, 0);
  if (squash || lone(v, squash) || (low >= 0 && Math.abs(sum - 1) < 1e-3)) return v;
  const high = v.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = v.map((x) => Math.exp(x - high));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / total);
}

/** The square around everything above 2 % of the largest magnitude: {left, top, width, height}. */
export function support(tensor, layout) {
  const { values, width, height } = reduce(tensor, layout, "maxabs");
  const edge = 0.02 * largest(values);
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let i = 0; i < values.length; i++) {
    if (values[i] < edge) continue;
    const x = i % width;
    const y = Math.floor(i / width);
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  const side = Math.min(Math.max(right - left, bottom - top, 4) + 3, Math.min(width, height));
  const start = (from, to, limit) => Math.min(Math.max(0, ((from + to) >> 1) - (side >> 1)), limit - side);
  return { left: start(left, right, width), top: start(top, bottom, height), width: side, height: side };
}
