// The engines of one length: which numbers of rows are compiled, which of them are worth using, and with what.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "atb/model.h"

namespace atb {

/// What every row needs to know of its model.
struct Vocabulary {
  std::int64_t pad = 0;
  std::size_t size = 0;
};

/// Writes `tokens` as row `row` of `length`. False, and a row of padding, where they are no row of this model: an id
/// outside its vocabulary would make an engine read memory that is not the table's.
bool fill(const Inputs& inputs, std::size_t row, std::size_t length, const Encoding& tokens,
          const Vocabulary& vocabulary);

/// Rows that ask an engine of this length all that texts can: full and short ones, both segments, ids from everywhere.
std::vector<Encoding> probes(std::size_t count, std::size_t length, const Vocabulary& vocabulary);

class Lane {
 public:
  struct Size {
    std::size_t rows;
    std::shared_ptr<const Engine> engine;
    double us;  // of a whole batch; the fastest of some
  };

  /// Compiles the entry for one row and for each of `rows`, and keeps what answers the same bits as one row and is
  /// faster a row. An engine that exists for its own number of rows only is used with that.
  Lane(const EngineEntry& entry, std::span<const std::size_t> rows, const Model::Opener& open, unsigned at_once,
       const Vocabulary& vocabulary);

  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] bool dynamic() const noexcept { return dynamic_; }
  [[nodiscard]] std::span<const Size> sizes() const noexcept { return sizes_; }  // fewest rows first
  [[nodiscard]] std::size_t most() const noexcept { return sizes_.back().rows; }
  /// Which of `sizes` to run next while `rows` wait: the first step of the cheapest way to answer all of them.
  [[nodiscard]] std::size_t step(std::size_t rows) const noexcept;
  /// Tokens a row is padded to.
  [[nodiscard]] std::size_t padded(const Encoding& tokens) const noexcept {
    return dynamic_ ? std::max<std::size_t>(1, tokens.size()) : length_;
  }

 private:
  std::size_t length_;
  bool dynamic_;
  std::vector<Size> sizes_;
  std::vector<std::size_t> steps_;  // by rows that wait; [0] is not used
};

/// The way of fewest microseconds from `most` rows to none by batches of these sizes, the last of which may be padded:
/// for each number of rows that wait, which size to run first.
std::vector<std::size_t> cheapest_steps(std::span<const Lane::Size> sizes, std::size_t most);

}  // namespace atb
