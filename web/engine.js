// Models on WebAssembly, and on WebGPU only after its first results were compared with those of WebAssembly.

export const AGREEMENT = 0.02;
// Relative L2 error that WebGPU may show: ReLU masks flip where a value is near 0, a wrong kernel is far outside.

export function relativeError(a, b) {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (Number(a[i]) - Number(b[i])) ** 2;
    norm += Number(b[i]) ** 2;
  }
  return norm ? Math.sqrt(difference / norm) : Math.sqrt(difference);
}

class Backend {
  constructor(name, threads) {
    const address = new URL(`worker.js?backend=${name}&threads=${threads}`, import.meta.url);
    this.worker = new Worker(address, { type: "module" });
    this.waiting = new Map();
    this.next = 0;
    this.worker.addEventListener("message", ({ data }) => this.settle(data));
    this.worker.addEventListener("error", (event) => this.fail(event.message || "the worker could not be started"));
  }

  settle({ id, error, ...reply }) {
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (error === undefined) resolve(reply);
    else reject(new Error(error));
  }

  fail(message) {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }

  run(file, weights, feeds, state) {
    return new Promise((resolve, reject) => {
      const id = this.next++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, file, weights, feeds, state });
    });
  }
}

export class Engine {
  /** threads: of WebAssembly; more than one needs a page that is isolated from others (COOP and COEP headers). */
  constructor(threads) {
    this.threads = threads;
    this.wasm = new Backend("wasm", threads);
    this.webgpu = null;
    this.verdicts = new Map();
  }

  /** Ask for WebGPU, or leave it. */
  accelerate(wanted) {
    if (wanted && !this.webgpu) this.webgpu = new Backend("webgpu", 1);
    this.wanted = wanted;
  }

  /**
   * {outputs, ms, backend, note}. entry: {file, webgpu: known problems}. state: {file, key, feeds} of a graph whose
   * outputs are fed too, run once for a key.
   */
  async run(entry, weights, feeds, state) {
    const known = entry.webgpu ?? [];
    if (!this.wanted || known.length || this.verdicts.get(entry.file) === false) {
      const note = this.wanted ? (known.length ? "WebGPU cannot run this graph" : "WebGPU failed its self-test") : "";
      return { ...(await this.wasm.run(entry.file, weights, feeds, state)), backend: "wasm", note };
    }
    if (this.verdicts.has(entry.file)) {
      return { ...(await this.webgpu.run(entry.file, weights, feeds, state)), backend: "webgpu", note: "" };
    }
    return this.tested(entry, weights, feeds, state);
  }

  /** The first run of a file: on both. What WebAssembly says is shown. */
  async tested(entry, weights, feeds, state) {
    const sure = await this.wasm.run(entry.file, weights, feeds, state);
    let good = false;
    let note = "";
    try {
      const other = await this.webgpu.run(entry.file, weights, feeds, state);
      const worst = Math.max(
        ...Object.keys(sure.outputs).map((name) => relativeError(other.outputs[name].values, sure.outputs[name].values)),
      );
      good = worst <= AGREEMENT;
      note = good ? "WebGPU passed its self-test" : `WebGPU failed its self-test (relative error ${worst.toPrecision(2)})`;
    } catch (error) {
      note = `WebGPU failed its self-test (${error.message})`;
    }
    this.verdicts.set(entry.file, good);
    return { ...sure, backend: "wasm", note };
  }
}

export function defaultThreads(asked) {
  const given = Number(asked);
  if (Number.isInteger(given) && given > 0) return Math.min(given, 16);
  return self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
}

export const float32 = (values, dims) => ({ type: "float32", values, dims });
export const int64 = (values, dims) => ({ type: "int64", values: BigInt64Array.from(values, BigInt), dims });

/** Unit normal numbers, the same for the same seed (Mulberry32 and Box-Muller). */
export function normal(count, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}
