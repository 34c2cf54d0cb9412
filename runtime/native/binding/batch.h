// Many texts at once, by the workers of a model.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "atb/model.h"

namespace atb {

struct TextOrPair {
  std::string_view first, second;
  bool pair = false;
};

/// Tokenises and computes each; float32 [texts, labels]. Waits for room where others keep the workers busy.
std::vector<float> answer(Model& model, std::span<const TextOrPair> texts);

}  // namespace atb
