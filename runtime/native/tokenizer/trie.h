// Finds the longest word of a set that a text begins with, in one walk and one memory access a byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace atb {

/// A double array: the child of a node for a byte lies at `base ^ byte`, if it carries that byte as its label. No two
/// nodes share a base, so the label alone tells whose child a unit is.
class Trie {
 public:
  using Node = std::uint32_t;  // the base of its children
  using Entries = std::vector<std::pair<std::string_view, std::int32_t>>;

  struct Match {
    std::int32_t value = -1;
    std::size_t size = 0;  // bytes; 0: no word
  };

  Trie();

  /// Adds a set of words with values that are not negative, each once; returns its root. Empty words are left out.
  /// Throws `std::length_error` where the sets together are too large.
  Node add(Entries words);

  [[nodiscard]] Match longest(Node root, const char* from, const char* end) const noexcept {
    Match best;
    Node base = root;
    for (const char* at = from; at != end; ++at) {
      const auto byte = static_cast<std::uint8_t>(*at);
      const Unit unit = units_[base ^ byte];
      if ((unit.link & kLabel) != (kUsed | byte)) break;
      if (unit.value >= 0) best = {unit.value, static_cast<std::size_t>(at - from) + 1};
      base = unit.link >> kShift;
    }
    return best;
  }

 private:
  static constexpr std::uint32_t kUsed = 0x100;
  static constexpr std::uint32_t kLabel = 0x1FF;
  static constexpr std::uint32_t kShift = 9;
  static constexpr std::size_t kBlock = 256;

  struct Unit {
    std::uint32_t link = 0;  // base of its children, whether it is in use, its label
    std::int32_t value = -1;
  };

  std::vector<Unit> units_;
  std::vector<bool> taken_;          // bases
  std::vector<std::uint16_t> free_;  // units of each block that are not in use
  std::size_t open_ = 1;             // blocks before this one are not tried any more

  void add_block();
  Node place(const std::vector<std::uint8_t>& labels);
};

}  // namespace atb
