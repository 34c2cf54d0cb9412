#include <algorithm>

#include "atb/machine.h"
#include "impl.h"

namespace atb {
namespace {

// How late at most a job that nobody comes to is told that it has expired.
constexpr std::chrono::milliseconds sweep_every{5};

}  // namespace

void Batcher::Impl::work(Worker& me) {
  if (me.core >= 0) {
    pin_to(me.core);
  }
  runner.started(me.number);
  Jobs jobs;
  Refusals refused;
  std::unique_lock lock(mutex);
  ++started;
  quiet.notify_all();
  while (park(me, lock)) {
    Bucket* bucket = take(jobs, refused);
    const std::size_t done = jobs.size() + refused.size();
    Worker* other = next();
    const bool look = needs_watch();
    lock.unlock();
    notify(other);
    if (look) {
      watch.notify_one();
    }
    refuse(refused);
    const auto begun = Clock::now();
    if (bucket != nullptr) {
      runner.run(me.number, bucket->length(), jobs);
    }
    const auto took = Clock::now() - begun;
    const std::size_t rows = jobs.size();
    jobs.clear();  // may be the last to hold a request, and what it holds: not under the lock
    lock.lock();
    if (bucket != nullptr) {
      bucket->learn(took, rows);
      counts.answered += rows;
    }
    settle(done);
  }
}

/// When its next batch may go.
Clock::time_point Batcher::Impl::due(const Bucket& bucket) const noexcept {
  if (bucket.empty()) {
    return Clock::time_point::max();
  }
  const bool now = options.wait == options.wait.zero() || draining || bucket.size() >= bucket.most();
  return now ? Clock::time_point::min() : bucket.front().queued + options.wait;
}

Clock::time_point Batcher::Impl::due() const noexcept {
  auto first = Clock::time_point::max();
  if (waiting > 0) {
    for (const Bucket& bucket : buckets) {
      first = std::min(first, due(bucket));
    }
  }
  return first;
}

/// Returns where there is something to do; false where the batcher stops.
bool Batcher::Impl::park(Worker& me, std::unique_lock<std::mutex>& lock) {
  while (!stopping) {
    const auto when = due();
    if (when == Clock::time_point::min() || (when != Clock::time_point::max() && when <= Clock::now())) {
      return true;
    }
    me.woken = false;
    idle.push_back(&me);
    const auto woken = [&me] { return me.woken; };
    if (when == Clock::time_point::max()) {
      me.wake.wait(lock, woken);
      --waking;
    } else if (me.wake.wait_until(lock, when, woken)) {
      --waking;
    } else {
      std::erase(idle, &me);
    }
  }
  return false;
}

/// Of those that are due the one whose first row is the oldest; null where none is.
Bucket* Batcher::Impl::first(Clock::time_point now) noexcept {
  Bucket* oldest = nullptr;
  for (Bucket& bucket : buckets) {
    if (due(bucket) <= now && !bucket.empty() &&
        (oldest == nullptr || bucket.front().queued < oldest->front().queued)) {
      oldest = &bucket;
    }
  }
  return oldest;
}

/// The oldest row that is due decides the length; what waits of that length goes with it. Null where nobody was left.
Bucket* Batcher::Impl::take(Jobs& jobs, Refusals& refused) {
  const auto now = Clock::now();
  while (waiting > 0) {
    Bucket* oldest = first(now);
    if (oldest == nullptr) {
      break;
    }
    while (!oldest->empty() && jobs.size() < oldest->most()) {
      auto job = oldest->pop();
      --waiting;
      ++busy;
      if (Kind why{}; oldest->refuses(*job, now, why)) {
        ++(why == Kind::cancelled ? counts.cancelled : counts.expired);
        refused.emplace_back(std::move(job), why);
      } else {
        jobs.push_back(std::move(job));
      }
    }
    if (!jobs.empty()) {
      ++counts.batches;
      counts.rows += jobs.size();
      return oldest;
    }
  }
  return nullptr;
}

/// A worker to wake where more batches wait than workers are on their way; it is `notify`'s once the lock is given up.
Batcher::Impl::Worker* Batcher::Impl::next() {
  if (idle.empty() || waiting == 0) {
    return nullptr;
  }
  std::size_t batches = 0;
  for (const Bucket& bucket : buckets) {
    batches += bucket.batches();
  }
  if (waking >= batches) {
    return nullptr;
  }
  Worker* worker = idle.back();
  idle.pop_back();
  worker->woken = true;
  ++waking;
  return worker;
}

void Batcher::Impl::settle(std::size_t done) noexcept {
  busy -= done;
  if (waiting == 0 && busy == 0) {
    quiet.notify_all();  // under the lock: who waits for it may be about to destroy it
  }
}

void Batcher::Impl::refuse(Refusals& refused) noexcept {
  for (const auto& [job, why] : refused) {
    job->refused(why);
  }
  refused.clear();
}

bool Batcher::Impl::needs_watch() noexcept {
  if (watched || waiting == 0 || !idle.empty() || waking > 0) {
    return false;
  }
  watched = true;
  return true;
}

void Batcher::Impl::look_after() {
  Refusals refused;
  std::unique_lock lock(mutex);
  while (!stopping) {
    watch.wait(lock, [this] { return stopping || watched; });
    if (watch.wait_for(lock, sweep_every, [this] { return stopping; })) {
      break;
    }
    const auto now = Clock::now();
    for (Bucket& bucket : buckets) {
      bucket.sweep(now, refused);
    }
    for (const auto& [job, why] : refused) {
      ++(why == Kind::cancelled ? counts.cancelled : counts.expired);
    }
    waiting -= refused.size();
    busy += refused.size();
    watched = waiting > 0;
    if (!refused.empty()) {
      const std::size_t done = refused.size();
      lock.unlock();
      refuse(refused);
      lock.lock();
      settle(done);
    }
  }
}

}  // namespace atb
