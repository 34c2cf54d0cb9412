// Requests as bytes, rendered beforehand: whoever makes load must not spend its core on JSON.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace atb::load {

/// A file of requests: for each a little-endian u32 of its size, then its bytes.
class Requests {
 public:
  /// Throws `std::runtime_error` where the file is not that.
  static Requests read(const std::filesystem::path& path);
  static Requests parse(std::string bytes);

  [[nodiscard]] std::size_t size() const noexcept { return parts_.size(); }
  [[nodiscard]] std::string_view operator[](std::size_t at) const noexcept {
    return std::string_view(bytes_).substr(parts_[at].from, parts_[at].size);
  }

 private:
  struct Part {
    std::size_t from, size;
  };
  std::string bytes_;
  std::vector<Part> parts_;
};

}  // namespace atb::load
