// node web.mjs PACKAGE FOLDER RUNS.json TIMES.json: the files of an exported page, run as its worker runs them.
// PACKAGE: web/package.json, beside node_modules. RUNS: {threads, rounds, pause, weights, runs: {name: {file, feeds, state}}},
// feeds {name: {type, dims, values}}, state {file, feeds} of what runs once. TIMES: {name: [milliseconds of each round]}.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , packageFile, folder, from, to] = process.argv;
const ort = createRequire(packageFile)("onnxruntime-web");
const { threads, rounds, pause, weights, runs } = JSON.parse(readFileSync(from, "utf8"));
ort.env.wasm.numThreads = threads;
ort.env.logLevel = "error";
const data = new Uint8Array(readFileSync(`${folder}/${weights}`));

const open = (file) =>
  ort.InferenceSession.create(new Uint8Array(readFileSync(`${folder}/${file}`)), {
    executionProviders: ["wasm"],
    externalData: [{ path: weights.split("/").pop(), data }],
    extra: { session: { intra_op: { allow_spinning: "0" } } },
    enableMemPattern: false,
    logSeverityLevel: 3,
  });
const tensor = ({ type, dims, values }) =>
  new ort.Tensor(type, type === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values), dims);
const tensors = (feeds) => Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, tensor(feed)]));

const calls = {};
for (const [name, { file, feeds, state }] of Object.entries(runs)) {
  const session = await open(file);
  const own = { ...tensors(state?.feeds ?? {}), ...tensors(feeds) };
  const kept = state ? await (await open(state.file)).run(tensors(state.feeds)) : {};
  const given = Object.fromEntries(session.inputNames.map((input) => [input, own[input] ?? kept[input]]));
  calls[name] = () => session.run(given);
  await calls[name]();
}
const times = Object.fromEntries(Object.keys(calls).map((name) => [name, []]));
for (let i = 0; i < rounds; i++) {
  const order = Object.keys(calls).sort(() => Math.random() - 0.5);
  for (const name of order) {
    await new Promise((done) => setTimeout(done, pause));
    const start = performance.now();
    await calls[name]();
    times[name].push(performance.now() - start);
  }
}
writeFileSync(to, JSON.stringify(times));
process.exit(0); // the threads of WebAssembly would keep it alive
