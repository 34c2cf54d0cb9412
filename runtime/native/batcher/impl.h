// The batcher's state and who does what with it: submit.cpp those who ask, workers.cpp those who answer.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "bucket.h"

namespace atb {

struct Batcher::Impl {
  struct Worker {
    unsigned number = 0;
    int core = -1;
    bool woken = false;
    std::condition_variable wake;
    std::thread thread;
  };

  Impl(Runner& the_runner, const BatcherOptions& the_options);

  Runner& runner;
  const BatcherOptions options;
  const bool helped;  // by threads that ask

  mutable std::mutex mutex;  // of all below; never held while a job or the runner is called
  std::vector<Bucket> buckets;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<Worker*> idle;      // the last to come is the first to go: its caches are warm
  std::condition_variable quiet;  // all have started; or nothing waits or runs
  std::size_t started = 0;
  std::size_t waking = 0;   // workers that were woken and are not here yet
  std::size_t waiting = 0;  // jobs
  std::size_t busy = 0;     // jobs out of the queue, not called yet
  bool draining = false;
  bool stopping = false;
  BatcherCounts counts{};

  unsigned calm = 0;
  Clock::duration lent{};  // since the last probe
  std::thread::id lender;

  std::thread watcher;
  std::condition_variable watch;
  bool watched = false;  // jobs wait, and no worker is free to see to their deadlines

  Bucket* bucket_of(const Job& job) noexcept;
  [[nodiscard]] Bucket* first(Clock::time_point now) noexcept;
  [[nodiscard]] bool is_short(double us) const noexcept;
  [[nodiscard]] Clock::time_point due(const Bucket& bucket) const noexcept;
  [[nodiscard]] Clock::time_point due() const noexcept;
  [[nodiscard]] double backlog_us() const noexcept;

  bool submit(std::span<const std::shared_ptr<Job>> jobs, bool helper);
  bool help();
  void run_here(std::unique_lock<std::mutex>& lock, Bucket& bucket, std::span<const std::shared_ptr<Job>> jobs);
  Bucket* lendable(std::span<const std::shared_ptr<Job>> jobs, Clock::time_point now) noexcept;
  void lend(std::unique_lock<std::mutex>& lock, Bucket& bucket, std::span<const std::shared_ptr<Job>> jobs);

  void work(Worker& me);
  bool park(Worker& me, std::unique_lock<std::mutex>& lock);
  Bucket* take(Jobs& jobs, Refusals& refused);
  Worker* next();
  bool needs_watch() noexcept;
  void look_after();
  void settle(std::size_t done) noexcept;
  void stop();

  /// Calls and forgets them. Not under the lock.
  static void refuse(Refusals& refused) noexcept;
  /// What `next` returned, once the lock is given up.
  static void notify(Worker* worker) noexcept {
    if (worker != nullptr) {
      worker->wake.notify_one();
    }
  }
};

}  // namespace atb
