// Requests and responses of the protocol's messages, as what the server computes with.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "oip.pb.h"
#include "server/tensors.h"

namespace atb {

/// What a request asks for. Its views point into the message.
struct Asked {
  std::vector<InputTensor> inputs;
  std::vector<Output> outputs;  // in the order of the answer
  bool raw = false;             // whether tensors are raw bytes, both ways
  std::optional<std::chrono::microseconds> timeout;
};

/// Throws `Error` telling what a request is made of.
Asked read(const inference::ModelInferRequest& request, const InputLimits& limits);
/// The answer of what was computed, with the outputs that were asked for.
void write(const Inference& work, const Asked& asked, inference::ModelInferResponse& response);

}  // namespace atb
