// Runs models, one after the other, so that the page stays responsive. One worker for each of WebAssembly and WebGPU.
// Asked {id, file, weights, feeds, state}; answers {id, outputs, ms} or {id, error}. Tensors are {type, values, dims}.
// state: {file, key, feeds} of a graph whose outputs are fed too; it runs once for a key.

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
const states = new Map();

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
    extra: { session: { intra_op: { allow_spinning: "0" } } }, // threads of one session would slow the next one's run
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

async function tensorsOf(feeds) {
  const { Tensor } = await ready;
  return Object.fromEntries(Object.entries(feeds).map(([name, { type, values, dims }]) => [name, new Tensor(type, values, dims)]));
}

/** What a graph makes of the feeds of a key, and these; kept until another key is asked for. */
async function stateOf({ file, key, feeds }, weights) {
  if (states.get(file)?.key !== key) {
    states.delete(file);
    const opened = await session(file, weights);
    const tensors = await tensorsOf(feeds);
    states.set(file, { key, tensors: { ...tensors, ...(await opened.run(tensors)) } });
  }
  return states.get(file).tensors;
}

async function run({ file, weights, feeds, state }) {
  const opened = await session(file, weights);
  if (state) await session(state.file, weights);
  const start = performance.now();
  const given = { ...(state ? await stateOf(state, weights) : {}), ...(await tensorsOf(feeds)) };
  const found = await opened.run(Object.fromEntries(opened.inputNames.map((name) => [name, given[name]])));
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
