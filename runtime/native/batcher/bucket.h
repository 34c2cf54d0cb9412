// What waits for one length, and what its batches cost lately.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "atb/batcher.h"

namespace atb {

using Jobs = std::vector<std::shared_ptr<Job>>;
using Refusals = std::vector<std::pair<std::shared_ptr<Job>, Kind>>;

/// First in, first out. Not thread-safe. Keeps its memory.
class Bucket {
 public:
  Bucket(std::size_t length, std::size_t most) : length_(length), most_(most) {}

  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] std::size_t most() const noexcept { return most_; }  // rows of one batch
  [[nodiscard]] std::size_t size() const noexcept { return jobs_.size() - head_; }
  [[nodiscard]] bool empty() const noexcept { return head_ == jobs_.size(); }
  [[nodiscard]] std::size_t batches() const noexcept { return (size() + most_ - 1) / most_; }
  [[nodiscard]] const Job& front() const noexcept { return *jobs_[head_]; }

  void push(std::shared_ptr<Job> job);
  std::shared_ptr<Job> pop();
  /// Moves jobs that are not worth an engine any more, wherever they stand, to `out`.
  void sweep(Clock::time_point now, Refusals& out);

  /// Whether a job whose turn is now should be refused. One that would need a faster engine than was ever seen of late
  /// is; each such refusal lowers the figure, so that one slow minute cannot refuse everybody for good.
  bool refuses(const Job& job, Clock::time_point now, Kind& why);
  void learn(Clock::duration took, std::size_t rows);
  [[nodiscard]] double row_us() const noexcept { return row_us_; }  // its share of a batch; 0 before the first
  [[nodiscard]] double waiting_us() const noexcept { return row_us_ * static_cast<double>(size()); }

 private:
  std::size_t length_;
  std::size_t most_;
  Jobs jobs_;
  std::size_t head_ = 0;
  double row_us_ = 0;
  double fastest_us_ = 0;
};

}  // namespace atb
