// Groups waiting rows into batches and hands them to workers. It knows rows and lengths, nothing of engines.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "atb/error.h"
#include "atb/tokenizer.h"

namespace atb {

using Clock = std::chrono::steady_clock;

/// How an answer came about.
struct Run {
  Clock::time_point queued, begun, ended;
  std::size_t batch = 0;   // rows of the engine that answered, filled or not
  std::size_t length = 0;  // its tokens a row
};

/// One row on its way. Exactly one of `answered` and `refused` is called, once: on a thread of the batcher, within
/// `submit`, or within the batcher's destructor. No lock is held then.
class Job {
 public:
  virtual ~Job() = default;
  Encoding tokens;
  Clock::time_point queued{};  // set by `submit`
  Clock::time_point deadline = Clock::time_point::max();
  std::atomic<bool> abandoned = false;  // its client has gone: it is refused as `cancelled`, not computed

  virtual void answered(std::span<const float> logits, const Run& run) noexcept = 0;
  virtual void refused(Kind why) noexcept = 0;
};

/// What computes a batch: all jobs fit `length`, and there are at most `rows(length)`.
class Runner {
 public:
  virtual ~Runner() = default;
  /// On the thread of each worker, before its first batch: a place to warm up.
  virtual void started(unsigned /*worker*/) noexcept {}
  /// Calls `answered` or `refused` of every job. Never throws. Each worker has its own number, below `workers`; a
  /// number is in use by one thread at a time, though not always by the same one.
  virtual void run(unsigned worker, std::size_t length, std::span<const std::shared_ptr<Job>> jobs) noexcept = 0;
  /// Lengths there are engines for, ascending.
  [[nodiscard]] virtual std::span<const std::size_t> lengths() const noexcept = 0;
  /// The most rows at once that pay at this length.
  [[nodiscard]] virtual std::size_t rows(std::size_t length) const noexcept = 0;
};

struct BatcherOptions {
  unsigned workers = 0;               // 0: one for each usable core
  std::size_t queue = 512;            // rows that may wait
  std::size_t tokens = 4096;          // of one batch, padding included
  std::chrono::microseconds wait{0};  // how long the first row of a batch waits for others; 0: never
  // A batch that takes less than this runs on the thread that submits it where nothing else waits or runs, and requests
  // have come one at a time of late: that saves two changes of thread. 0: never.
  std::chrono::microseconds lend{2000};
  // Threads that ask by `submit_and_help` compute as well, a batch at a time. By default where one worker would share
  // the one core with who asks: changing threads would only cost time there.
  std::optional<bool> help;
  bool pin = true;  // each worker to a core of its own, where there are as many workers as cores
};

struct BatcherCounts {
  std::size_t waiting, running;                // rows, now
  std::size_t answered;                        // rows that were run, an engine's failures included
  std::size_t overloaded, expired, cancelled;  // rows that were not
  std::size_t batches, rows;                   // that were run
  std::size_t lent;                            // of the batches: on a thread that asked
};

class Batcher {
 public:
  /// Returns when every worker has started.
  Batcher(Runner& runner, const BatcherOptions& options);
  /// Stops at once: what waits is refused as `unavailable`, what runs is answered. Not from within a job: see `mine`.
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// Takes all jobs of a request or none. False where the queue has no room for all of them, or is so long that their
  /// deadline would come first: nothing was called then. After `drain`, all are refused as `unavailable`; jobs longer
  /// than the longest engine always are, as `too_large`. Who submits holds what owns the batcher until this returns.
  bool submit(std::span<const std::shared_ptr<Job>> jobs);
  /// The same for a thread that reads many requests before it computes: where `helps`, nobody is woken, and the thread
  /// calls `help` until it returns false.
  bool submit_and_help(std::span<const std::shared_ptr<Job>> jobs);
  [[nodiscard]] bool helps() const noexcept;
  /// Runs the batch whose turn is next on the calling thread, or leaves long ones to a worker. Whether more waits for
  /// this thread.
  bool help();
  /// Whether a row submitted now would find no room.
  [[nodiscard]] bool full() const noexcept;
  /// Takes nothing new, answers what waits. False where `until` came first.
  bool drain(Clock::time_point until);
  [[nodiscard]] BatcherCounts counts() const noexcept;
  /// How long a row submitted now would wait, from what the last batches took: what `Retry-After` says.
  [[nodiscard]] std::chrono::microseconds backlog() const noexcept;
  [[nodiscard]] unsigned workers() const noexcept;
  /// Whether the calling thread is a worker, or runs a batch within `submit`: it cannot wait for this batcher's end.
  [[nodiscard]] bool mine() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace atb
