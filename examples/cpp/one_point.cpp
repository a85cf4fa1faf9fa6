// Finds the mask under one point of a photo, with the graphs of esam-rt and the C++ API of ONNX Runtime.
// docs/howto/cpp.md explains the tensors.
//
//   esam-rt export tiny --out graphs
//   convert photo.jpg -resize 512x512 photo.ppm      # the longer side must have the pixels of the model's input
//   c++ -std=c++17 one_point.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o one_point
//   ./one_point graphs photo.ppm 200 150 mask.pbm    # x and y in pixels of photo.ppm

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

using Tensors = std::map<std::string, Ort::Value>;
const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

template <typename T>
Ort::Value tensor(std::vector<T>& data, const std::vector<int64_t>& shape) {
  return Ort::Value::CreateTensor<T>(cpu, data.data(), data.size(), shape.data(), shape.size());
}

// Runs a graph on the tensors that have the names of its inputs, and keeps its outputs beside them.
void run(Ort::Session& session, Tensors& tensors) {
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::IoBinding binding(session);
  std::vector<std::string> outputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    const auto name = session.GetInputNameAllocated(i, allocator);
    binding.BindInput(name.get(), tensors.at(name.get()));
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
    binding.BindOutput(outputs.back().c_str(), cpu);
  }
  session.Run(Ort::RunOptions(), binding);
  auto values = binding.GetOutputValues();
  for (size_t i = 0; i < outputs.size(); ++i) tensors.insert_or_assign(outputs[i], std::move(values[i]));
}

int main(int argc, char** argv) {
  if (argc != 6) return std::cerr << "usage: one_point GRAPHS PHOTO.ppm X Y MASK.pbm\n", 2;
  const std::string graphs = argv[1];
  Ort::Env env;
  auto open = [&](const char* name) { return Ort::Session(env, (graphs + name).c_str(), Ort::SessionOptions()); };
  auto encoder = open("/encoder.onnx"), decoder = open("/decoder.onnx"), mask_head = open("/mask_head.onnx");
  const int64_t side = encoder.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1];

  std::ifstream photo(argv[2], std::ios::binary);  // PPM: "P6", width, height, 255, then RGB
  std::string kind;
  int64_t width = 0, height = 0, white = 0;
  photo >> kind >> width >> height >> white;
  photo.get();
  if (kind != "P6" || white != 255 || std::max(width, height) != side)
    return std::cerr << "The longer side of the PPM must have " << side << " pixels of 8 bits.\n", 2;
  std::vector<uint8_t> image(side * side * 3);  // the photo lies at the top left, the rest is black
  for (int64_t y = 0; y < height; ++y) photo.read(reinterpret_cast<char*>(&image[y * side * 3]), width * 3);
  std::vector<int64_t> valid_hw_px{height, width};

  const int64_t points = decoder.GetInputTypeInfo(decoder.GetInputCount() - 1).GetTensorTypeAndShapeInfo().GetShape()[1];
  std::vector<float> points_xy_px(points * 2);
  points_xy_px[0] = std::stof(argv[3]), points_xy_px[1] = std::stof(argv[4]);
  std::vector<int64_t> labels(points, -1);  // -1: no point. SAM's own decoder takes two points
  labels[0] = 1;                            // foreground

  const int64_t grid_h = (height + 3) / 4, grid_w = (width + 3) / 4;       // cells of 4 x 4 pixels
  const int64_t rows = (grid_h + 3) / 4, columns = (grid_w + 7) / 8 * 2;   // positions of the embedding, 4 x 4 cells
  std::vector<int64_t> valid_hw{grid_h, grid_w}, index{0}, cells;          // index: prompts whose masks are wanted
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) cells.push_back(y * (side / 16) + x);
  std::vector<float> stability_offset{1.0f};

  Tensors t;
  t.emplace("image", tensor(image, {1, side, side, 3}));
  t.emplace("valid_hw_px", tensor(valid_hw_px, {2}));
  t.emplace("points_xy_px", tensor(points_xy_px, {1, points, 2}));
  t.emplace("labels", tensor(labels, {1, points}));
  t.emplace("index", tensor(index, {1}));
  t.emplace("cells", tensor(cells, {rows, columns}));
  t.emplace("valid_hw", tensor(valid_hw, {2}));
  t.emplace("stability_offset", tensor(stability_offset, {1}));
  run(encoder, t);  // once for each photo
  run(decoder, t);  // for each batch of prompts
  run(mask_head, t);

  const float* iou = t.at("predicted_iou").GetTensorData<float>();
  const int64_t best = std::max_element(iou, iou + 3) - iou;
  const auto shape = t.at("bits").GetTensorTypeAndShapeInfo().GetShape();  // [1, 3, rows, bytes]
  const uint8_t* bits = t.at("bits").GetTensorData<uint8_t>() + best * shape[2] * shape[3];
  std::ofstream mask(argv[5]);
  mask << "P1\n" << grid_w << " " << grid_h << "\n";
  for (int64_t y = 0; y < grid_h; ++y, mask << "\n")
    for (int64_t x = 0; x < grid_w; ++x) mask << (bits[y * shape[3] + x / 8] >> x % 8 & 1);
  std::cout << "predicted IoU " << iou[best] << ", " << t.at("area").GetTensorData<int32_t>()[best] << " cells\n";
}
