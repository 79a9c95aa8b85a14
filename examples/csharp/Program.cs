// dotnet run FILE.onnx INPUT.f32 HEATMAP.f32
// The files are those of ../node/explain.mjs.
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using System.Runtime.InteropServices;

using var session = new InferenceSession(args[0]);
var (name, port) = session.InputMetadata.First(entry => entry.Key != "target");
var dims = port.Dimensions.Select((size, axis) => axis == 0 ? 1 : size).ToArray();
var pixels = MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(args[1]).AsSpan()).ToArray();
using var result = session.Run(new[]
{
    NamedOnnxValue.CreateFromTensor(name, new DenseTensor<float>(pixels, dims)),
    NamedOnnxValue.CreateFromTensor("target", new DenseTensor<long>(new long[] { -1 }, new[] { 1, 1 })), // the top class
});
var scores = result.First().AsEnumerable<float>().ToArray();
var heat = result.First(value => value.Name == "heatmap").AsTensor<float>();
Console.WriteLine($"class {Array.IndexOf(scores, scores.Max())}, heat map {string.Join(" x ", heat.Dimensions.ToArray())}");
File.WriteAllBytes(args[2], MemoryMarshal.AsBytes(heat.ToArray().AsSpan()).ToArray());
