// Runs models, one after the other, so that the page stays responsive. One worker for each of WebAssembly and WebGPU.
// Asked {id, op: "run", file, weights, feeds}; answers {id, outputs, ms} or {id, error}. Tensors are {type, values, dims}.

const asked = new URL(self.location.href).searchParams;
const backend = asked.get("backend") === "webgpu" ? "webgpu" : "wasm";
const base = new URL(".", self.location.href);

const ready = import(`./vendor/ort.${backend}.min.mjs`).then((ort) => {
  ort.env.wasm.wasmPaths = new URL("vendor/", base).href;
  ort.env.wasm.numThreads = Number(asked.get("threads")) || 1;
  ort.env.logLevel = "error";
  return ort;
});
const files = new Map();
const sessions = new Map();

function fetched(path) {
  if (!files.has(path)) {
    const found = fetch(new URL(path, base)).then(async (reply) => {
      if (!reply.ok) throw new Error(`${path}: the server answered ${reply.status}`);
      return new Uint8Array(await reply.arrayBuffer());
    });
    found.catch(() => files.delete(path)); // so that it can be tried again
    files.set(path, found);
  }
  return files.get(path);
}

async function open(file, weights) {
  const [ort, graph, data] = await Promise.all([ready, fetched(file), fetched(weights)]);
  files.delete(file); // the weights are kept: other graphs use them
  return ort.InferenceSession.create(graph, {
    executionProviders: [backend],
    externalData: [{ path: weights.split("/").pop(), data }],
    enableMemPattern: false, // an explanation keeps most activations: the pattern costs more than it saves
    logSeverityLevel: 3,
  });
}

function session(file, weights) {
  if (!sessions.has(file)) {
    const found = open(file, weights);
    found.catch(() => sessions.delete(file));
    sessions.set(file, found);
  }
  return sessions.get(file);
}

async function run({ file, weights, feeds }) {
  const opened = await session(file, weights);
  const ort = await ready;
  const tensors = {};
  for (const [name, { type, values, dims }] of Object.entries(feeds)) {
    tensors[name] = new ort.Tensor(type, values, dims);
  }
  const start = performance.now();
  const found = await opened.run(tensors);
  const ms = performance.now() - start;
  const outputs = {};
  for (const [name, tensor] of Object.entries(found)) {
    outputs[name] = { values: (await tensor.getData()).slice(), dims: [...tensor.dims] };
    tensor.dispose();
  }
  return { outputs, ms };
}

let last = Promise.resolve();

self.addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      const { outputs, ms } = await run(data);
      const buffers = Object.values(outputs).map(({ values }) => values.buffer);
      self.postMessage({ id: data.id, outputs, ms }, buffers);
    } catch (error) {
      self.postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
});
