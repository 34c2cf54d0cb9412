// Counts of durations whose buckets are at most 1/512 of their value wide, whatever the value.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace atb::load {

class Histogram {
 public:
  void add(std::int64_t ns) {
    const std::size_t at = bucket(ns < 0 ? 0 : static_cast<std::uint64_t>(ns));
    if (at >= counts_.size()) counts_.resize(at + 1);
    ++counts_[at];
    ++total_;
  }

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }

  /// Calls `tell(ns, count)` for every bucket that is not empty, ascending; `ns` is its middle.
  template <typename Tell>
  void each(Tell tell) const {
    for (std::size_t at = 0; at < counts_.size(); ++at) {
      if (counts_[at] != 0) tell(middle(at), counts_[at]);
    }
  }

  static constexpr unsigned kBits = 9;  // 512 buckets to each doubling

  static std::size_t bucket(std::uint64_t value) noexcept {
    const unsigned width = static_cast<unsigned>(std::bit_width(value));
    if (width <= kBits + 1) return static_cast<std::size_t>(value);
    const unsigned shift = width - (kBits + 1);
    return (static_cast<std::size_t>(shift) << kBits) + static_cast<std::size_t>(value >> shift);
  }

  static std::uint64_t middle(std::size_t at) noexcept {
    if (at < (std::size_t{2} << kBits)) return at;
    const auto shift = static_cast<unsigned>(at >> kBits) - 1;
    const std::uint64_t least = (static_cast<std::uint64_t>(at) - (std::uint64_t{shift} << kBits)) << shift;
    return least + (std::uint64_t{1} << shift) / 2;
  }

 private:
  std::vector<std::uint64_t> counts_;
  std::uint64_t total_ = 0;
};

}  // namespace atb::load
