// g++ -std=c++17 explain.cpp -I $ORT/include -L $ORT/lib -Wl,-rpath,$ORT/lib -lonnxruntime -o explain
// ./explain FILE.onnx INPUT.f32 HEATMAP.f32
// $ORT: an unpacked release of onnxruntime; the files are those of ../node/explain.mjs.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

int main(int, char** argv) {
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions());
  Ort::AllocatorWithDefaultOptions allocator;
  const size_t picture = std::string(session.GetInputNameAllocated(0, allocator).get()) == "target" ? 1 : 0;
  const auto name = session.GetInputNameAllocated(picture, allocator), scores_name = session.GetOutputNameAllocated(0, allocator);
  const auto info = session.GetInputTypeInfo(picture);
  auto shape = info.GetTensorTypeAndShapeInfo().GetShape();
  shape[0] = 1;
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  std::vector<int64_t> top{-1}, one{1, 1};  // -1: the class on top
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Value feeds[] = {
      Ort::Value::CreateTensor(memory, reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float), shape.data(), shape.size()),
      Ort::Value::CreateTensor(memory, top.data(), top.size(), one.data(), one.size())};
  const char* inputs[] = {name.get(), "target"};
  const char* outputs[] = {scores_name.get(), "heatmap"};
  const auto result = session.Run(Ort::RunOptions(), inputs, feeds, 2, outputs, 2);
  const float* scores = result[0].GetTensorData<float>();
  const auto count = result[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const auto pixels = result[1].GetTensorTypeAndShapeInfo().GetElementCount();
  std::cout << "class " << std::max_element(scores, scores + count) - scores << ", heat map of " << pixels << " pixels\n";
  std::ofstream(argv[3], std::ios::binary).write(reinterpret_cast<const char*>(result[1].GetTensorData<float>()), pixels * sizeof(float));
}
