#include "bucket.h"

#include <algorithm>

namespace atb {
namespace {

using Microseconds = std::chrono::duration<double, std::micro>;

constexpr double most_growth = 4;  // of a batch's time over the usual one, as it counts for the usual one

/// Of a job that should not be computed, whenever its turn is.
bool is_over(const Job& job, Clock::time_point now, Kind& why) {
  if (job.abandoned.load(std::memory_order_relaxed)) {
    why = Kind::cancelled;
    return true;
  }
  why = Kind::expired;
  return job.deadline <= now;
}

}  // namespace

void Bucket::push(std::shared_ptr<Job> job) {
  if (jobs_.size() == jobs_.capacity() && head_ > jobs_.size() / 2) {
    jobs_.erase(jobs_.begin(), jobs_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  jobs_.push_back(std::move(job));
}

std::shared_ptr<Job> Bucket::pop() {
  auto job = std::move(jobs_[head_++]);
  if (empty()) {
    jobs_.clear();
    head_ = 0;
  }
  return job;
}

void Bucket::sweep(Clock::time_point now, Refusals& out) {
  auto kept = jobs_.begin() + static_cast<std::ptrdiff_t>(head_);
  for (auto job = kept; job != jobs_.end(); ++job) {
    if (Kind why{}; is_over(**job, now, why)) {
      out.emplace_back(std::move(*job), why);
    } else if (kept++ != job) {
      *std::prev(kept) = std::move(*job);
    }
  }
  jobs_.erase(kept, jobs_.end());
  if (empty()) {
    jobs_.clear();
    head_ = 0;
  }
}

bool Bucket::refuses(const Job& job, Clock::time_point now, Kind& why) {
  if (is_over(job, now, why)) {
    return true;
  }
  if (Microseconds(job.deadline - now).count() >= fastest_us_) {  // a deadline of `max` is far enough in a double
    return false;
  }
  fastest_us_ *= 15.0 / 16;
  return true;
}

void Bucket::learn(Clock::duration took, std::size_t rows) {
  const double us = Microseconds(took).count();
  const double share = us / static_cast<double>(rows);
  // One stall of the machine is not the pace of what waits: it may not refuse requests for a backlog of its size.
  row_us_ = row_us_ == 0 ? share : row_us_ + (std::min(share, most_growth * row_us_) - row_us_) / 8;
  fastest_us_ = fastest_us_ == 0 ? us : std::min(us, fastest_us_ * 65 / 64);
}

}  // namespace atb
