#include "atb/batcher.h"

#include <algorithm>

#include "atb/machine.h"
#include "impl.h"

namespace atb {

Batcher::Impl::Impl(Runner& the_runner, const BatcherOptions& the_options)
    : runner(the_runner),
      options(the_options),
      helped(options.help.value_or(usable_cpus() == 1) && options.workers <= 1 && options.wait == options.wait.zero()) {
  for (const std::size_t length : runner.lengths()) {
    const std::size_t within = std::max<std::size_t>(1, options.tokens / length);
    buckets.emplace_back(length, std::clamp<std::size_t>(runner.rows(length), 1, within));
  }
  const std::vector<int> cores = affinity();
  const unsigned count = options.workers != 0 ? options.workers : usable_cpus();
  // With fewer workers than cores, other processes would choose the same ones: then the system places them better.
  const bool pin = options.pin && count == cores.size();
  idle.reserve(count);
  try {
    for (unsigned i = 0; i < count; ++i) {
      Worker& worker = *workers.emplace_back(std::make_unique<Worker>());
      worker.number = i;
      worker.core = pin ? cores[i] : -1;
      worker.thread = std::thread([this, &worker] { work(worker); });
    }
    watcher = std::thread([this] { look_after(); });
  } catch (...) {
    stop();
    throw;
  }
  std::unique_lock lock(mutex);
  quiet.wait(lock, [this] { return started == workers.size(); });
}

void Batcher::Impl::stop() {
  Refusals refused;
  std::unique_lock lock(mutex);
  draining = stopping = true;
  for (Bucket& bucket : buckets) {
    while (!bucket.empty()) {
      refused.emplace_back(bucket.pop(), Kind::unavailable);
    }
  }
  waiting = 0;
  for (const auto& worker : workers) {
    worker->woken = true;  // whoever lends himself under its number comes back on his own
    worker->wake.notify_one();
  }
  watch.notify_one();
  lock.unlock();
  refuse(refused);
  for (const auto& worker : workers) {
    if (worker->thread.joinable()) {
      worker->thread.join();
    }
  }
  if (watcher.joinable()) {
    watcher.join();
  }
  lock.lock();
  quiet.wait(lock, [this] { return busy == 0; });
}

Batcher::Batcher(Runner& runner, const BatcherOptions& options) : impl_(std::make_unique<Impl>(runner, options)) {}

Batcher::~Batcher() { impl_->stop(); }

bool Batcher::submit(std::span<const std::shared_ptr<Job>> jobs) { return impl_->submit(jobs, false); }

bool Batcher::submit_and_help(std::span<const std::shared_ptr<Job>> jobs) { return impl_->submit(jobs, impl_->helped); }

bool Batcher::helps() const noexcept { return impl_->helped; }

bool Batcher::help() { return impl_->help(); }

bool Batcher::drain(Clock::time_point until) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  for (Impl::Worker* worker = impl_->next(); worker != nullptr; worker = impl_->next()) {
    worker->wake.notify_one();  // what waits for company goes at once
  }
  return impl_->quiet.wait_until(lock, until, [this] { return impl_->waiting == 0 && impl_->busy == 0; });
}

bool Batcher::full() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  return impl_->waiting >= impl_->options.queue && !impl_->draining;
}

BatcherCounts Batcher::counts() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  BatcherCounts counts = impl_->counts;
  counts.waiting = impl_->waiting;
  counts.running = impl_->busy;
  return counts;
}

std::chrono::microseconds Batcher::backlog() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  return std::chrono::microseconds(static_cast<std::int64_t>(impl_->backlog_us()));
}

unsigned Batcher::workers() const noexcept { return static_cast<unsigned>(impl_->workers.size()); }

bool Batcher::mine() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  const auto me = std::this_thread::get_id();
  return impl_->lender == me || impl_->watcher.get_id() == me ||
         std::any_of(impl_->workers.begin(), impl_->workers.end(),
                     [&](const auto& worker) { return worker->thread.get_id() == me; });
}

}  // namespace atb
