// Jobs that count what happens to them, and a runner that does what a test says.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <ostream>
#include <span>
#include <thread>
#include <vector>

#include "atb/batcher.h"

namespace atb {

inline std::ostream& boost_test_print_type(std::ostream& out, Kind kind) { return out << static_cast<int>(kind); }

}  // namespace atb

namespace atb::test {

using namespace std::chrono_literals;

class CountedJob : public Job {
 public:
  explicit CountedJob(std::size_t size, int number = 0) : id(number) {
    tokens.ids.assign(size, 1);
    tokens.types.assign(size, 0);
  }

  int id;
  std::atomic<int> calls = 0;
  std::atomic<bool> was_answered = false;
  std::atomic<Kind> why = Kind::internal;
  std::atomic<std::thread::id> thread;
  std::function<void()> then;

  void answered(std::span<const float> /*logits*/, const Run& /*run*/) noexcept override {
    was_answered = true;
    over();
  }
  void refused(Kind kind) noexcept override {
    why = kind;
    over();
  }
  [[nodiscard]] Kind kind() const { return why; }
  void wait() const {
    while (calls == 0) {
      calls.wait(0);
    }
  }

 private:
  void over() {
    thread = std::this_thread::get_id();
    if (then) {
      then();
    }
    ++calls;
    calls.notify_all();
  }
};

using Counted = std::shared_ptr<CountedJob>;

inline Counted job(std::size_t size, int number = 0) { return std::make_shared<CountedJob>(size, number); }

inline bool submit(Batcher& batcher, const std::vector<Counted>& jobs) {
  const std::vector<std::shared_ptr<Job>> plain(jobs.begin(), jobs.end());
  return batcher.submit(plain);
}

class FakeRunner : public Runner {
 public:
  struct Batch {
    std::size_t length;
    std::vector<int> ids;
  };

  explicit FakeRunner(std::vector<std::size_t> lengths = {16, 32, 64, 128}, std::size_t rows = 8)
      : lengths_(std::move(lengths)), rows_(rows) {}

  std::function<void()> work = [] {};  // what a batch costs
  std::atomic<unsigned> starts = 0;

  void started(unsigned /*worker*/) noexcept override { ++starts; }
  void run(unsigned worker, std::size_t length, std::span<const std::shared_ptr<Job>> jobs) noexcept override {
    {
      std::unique_lock lock(mutex_);
      Batch batch{length, {}};
      for (const auto& job : jobs) {
        batch.ids.push_back(static_cast<CountedJob&>(*job).id);
        faults_ += job->tokens.size() > length;
      }
      faults_ += jobs.empty() || jobs.size() > rows_;
      faults_ += std::count(inside_.begin(), inside_.end(), worker) != 0;  // a number is of one thread at a time
      inside_.push_back(worker);
      batches_.push_back(std::move(batch));
      changed_.notify_all();
      changed_.wait(lock, [this] { return !shut_; });
    }
    work();
    Run how;
    how.length = length;
    how.batch = jobs.size();
    const float logits[] = {0, 1};
    for (const auto& job : jobs) {
      job->answered(logits, how);
    }
    const std::lock_guard lock(mutex_);
    inside_.erase(std::find(inside_.begin(), inside_.end(), worker));
  }
  [[nodiscard]] std::span<const std::size_t> lengths() const noexcept override { return lengths_; }
  [[nodiscard]] std::size_t rows(std::size_t /*length*/) const noexcept override { return rows_; }

  /// While it is shut, batches begin but do not end.
  void shut(bool now) {
    const std::lock_guard lock(mutex_);
    shut_ = now;
    changed_.notify_all();
  }
  void wait_for_batches(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return batches_.size() >= count; });
  }
  [[nodiscard]] std::vector<Batch> batches() const {
    const std::lock_guard lock(mutex_);
    return batches_;
  }
  [[nodiscard]] std::size_t faults() const {
    const std::lock_guard lock(mutex_);
    return faults_;
  }

 private:
  std::vector<std::size_t> lengths_;
  std::size_t rows_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
  std::vector<Batch> batches_;
  std::vector<unsigned> inside_;
  std::size_t faults_ = 0;
};

/// One worker, no lending, no deadline: what runs when is decided by the queue alone.
inline BatcherOptions one_worker() {
  BatcherOptions options;
  options.workers = 1;
  options.lend = 0us;
  options.pin = false;
  return options;
}

}  // namespace atb::test
