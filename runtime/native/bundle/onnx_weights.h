// Where an ONNX file keeps weights besides itself. ONNX is Protocol Buffers (onnx/onnx.proto); of its messages only
// those that hold tensors are followed, and nothing of the weights is read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace atb {

/// A file of weights: its path from the model's folder, and how many bytes of it the model uses.
struct ExternalWeights {
  std::string location;
  std::uint64_t bytes = 0;
};

/// Each location once, sorted. Throws `std::invalid_argument` for what is no ONNX model, `std::system_error` where it
/// cannot be read.
std::vector<ExternalWeights> external_weights(const std::filesystem::path& onnx);
std::vector<ExternalWeights> external_weights(std::span<const unsigned char> onnx);

}  // namespace atb
