#include "tokenizer/trie.h"

#include <algorithm>
#include <stdexcept>

namespace atb {
namespace {

constexpr std::size_t kOpenBlocks = 16;  // tried before another is made
constexpr std::size_t kMostUnits = std::size_t{1} << 23;

}  // namespace

Trie::Trie() {
  add_block();  // base 0 is nobody's: nodes without children have it, and find none
  taken_[0] = true;
}

void Trie::add_block() {
  if (units_.size() + kBlock > kMostUnits) throw std::length_error("it has too many different words");
  units_.resize(units_.size() + kBlock);
  taken_.resize(units_.size());
  free_.push_back(kBlock);
}

Trie::Node Trie::place(const std::vector<std::uint8_t>& labels) {
  const auto fits = [&](std::size_t base) {
    return !taken_[base] &&
           std::ranges::all_of(labels, [&](std::uint8_t label) { return (units_[base ^ label].link & kUsed) == 0; });
  };
  const auto take = [&](std::size_t base) {
    taken_[base] = true;
    for (const std::uint8_t label : labels) units_[base ^ label].link = kUsed | label;
    free_[base / kBlock] = static_cast<std::uint16_t>(free_[base / kBlock] - labels.size());
    return static_cast<Node>(base);
  };
  for (std::size_t block = open_; block < free_.size(); ++block) {
    if (free_[block] < labels.size()) continue;
    for (std::size_t base = block * kBlock; base < (block + 1) * kBlock; ++base)
      if (fits(base)) return take(base);
  }
  add_block();
  if (free_.size() > open_ + kOpenBlocks) open_ = free_.size() - kOpenBlocks;
  return take(units_.size() - kBlock);
}

Trie::Node Trie::add(Entries words) {
  std::ranges::sort(words);
  // The words from `low` to `high` begin alike for `depth` bytes; their node is `unit`, the root's being none.
  struct Range {
    std::size_t low, high, depth, unit;
  };
  constexpr std::size_t kRoot = 0;  // unit 0 is never used: base 0 is not
  Node root = 0;
  std::vector<Range> waiting{{0, words.size(), 0, kRoot}};
  std::vector<std::uint8_t> labels;
  std::vector<std::size_t> starts;
  while (!waiting.empty()) {
    Range range = waiting.back();
    waiting.pop_back();
    while (range.low < range.high && words[range.low].first.size() == range.depth) {  // sorted: the shortest first
      if (range.unit != kRoot) units_[range.unit].value = words[range.low].second;
      ++range.low;
    }
    if (range.low == range.high) continue;
    labels.clear();
    starts.clear();
    for (std::size_t i = range.low; i < range.high; ++i) {
      const auto label = static_cast<std::uint8_t>(words[i].first[range.depth]);
      if (!labels.empty() && labels.back() == label) continue;
      labels.push_back(label);
      starts.push_back(i);
    }
    starts.push_back(range.high);
    const Node base = place(labels);
    if (range.unit == kRoot)
      root = base;
    else
      units_[range.unit].link |= base << kShift;
    for (std::size_t i = labels.size(); i-- > 0;)
      waiting.push_back({starts[i], starts[i + 1], range.depth + 1, base ^ labels[i]});
  }
  return root;
}

}  // namespace atb
