// The target of a request: its path in parts, and the model its query names.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace atb {

struct Path {
  std::vector<std::string> parts;  // decoded; those behind `size` are left from earlier requests
  std::size_t size = 0;
  std::string model;  // of ?model=

  /// False where the target is no path, or its escapes are broken.
  bool read(std::string_view target);
  [[nodiscard]] std::string_view operator[](std::size_t i) const noexcept {
    return i < size ? std::string_view(parts[i]) : std::string_view();
  }
};

}  // namespace atb
