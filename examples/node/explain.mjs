// node explain.mjs FILE.onnx INPUT.f32 HEATMAP.f32
// FILE: made by `onnxplain compile MODEL -m METHOD --reduce maxabs`. INPUT: the model's input for one picture, as raw
// little-endian float32 (numpy: x.tofile("input.f32")). HEATMAP is written likewise, height times width numbers.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [file, input, output] = process.argv.slice(2);
const session = await ort.InferenceSession.create(file);
const picture = session.inputMetadata.find((port) => port.name !== "target");
const pixels = new Float32Array(Uint8Array.from(readFileSync(input)).buffer);
const result = await session.run({
  [picture.name]: new ort.Tensor("float32", pixels, [1, ...picture.shape.slice(1)]),
  target: new ort.Tensor("int64", [-1n], [1, 1]), // -1: the class on top
});
const scores = result[session.outputNames[0]].data;
console.log(`class ${scores.indexOf(Math.max(...scores))}, heat map ${result.heatmap.dims.join(" x ")}`);
writeFileSync(output, new Uint8Array(result.heatmap.data.buffer));
