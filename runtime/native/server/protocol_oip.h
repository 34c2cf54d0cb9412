// The Open Inference Protocol over REST: JSON, with tensors as JSON or binary behind it.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_reader.h"
#include "tensors.h"

namespace atb::oip {

struct Wanted {
  Output output;
  bool binary;
};

/// What the answer needs of the request; its strings are its own.
struct Reply {
  std::string id;
  std::string model, version;
  std::vector<Wanted> outputs;
};

struct Request {
  std::vector<InputTensor> inputs;  // their views point into the body, or into the reader
  std::optional<std::chrono::microseconds> timeout;
};

/// Reads a body whose first bytes `json` reads, and whose binary tensors are `raw`. Throws `Error(Kind::invalid)`.
Request read_infer(JsonReader& json, std::string_view raw, const InputLimits& limits, Reply& reply);

/// Appends the answer to `body`; answers how many bytes of it are JSON where there are binary tensors behind it.
std::optional<std::size_t> write_infer(const Inference& work, const Reply& reply, std::string& body);

}  // namespace atb::oip
