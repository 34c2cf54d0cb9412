#include <algorithm>

#include "impl.h"

namespace atb {
namespace {

// Lending saves a request two changes of thread (48 us together on the virtual machine where it was measured, 6 us on
// one core), but whoever comes during a lent batch waits for its end. So it is for requests that come one at a time: so
// many in a row must have found nothing waiting or running, more for longer batches.
constexpr double calm_per_us = 1.0 / 8;
// A thread that lends itself takes no requests meanwhile, so it cannot see that others wait for it. Hence after this
// much lent time one batch goes to a worker: requests that come during it tell.
constexpr std::chrono::milliseconds probe_every{20};

}  // namespace

Bucket* Batcher::Impl::bucket_of(const Job& job) noexcept {
  const auto found = std::lower_bound(buckets.begin(), buckets.end(), job.tokens.size(),
                                      [](const Bucket& bucket, std::size_t size) { return bucket.length() < size; });
  return found == buckets.end() ? nullptr : &*found;
}

double Batcher::Impl::backlog_us() const noexcept {
  double sum = 0;
  for (const Bucket& bucket : buckets) {
    sum += bucket.waiting_us();
  }
  return sum / static_cast<double>(workers.size());
}

bool Batcher::Impl::submit(std::span<const std::shared_ptr<Job>> jobs, bool helper) {
  if (jobs.empty()) {
    return true;
  }
  // Only what waits or runs is behind the lock: lengths never change.
  const auto fits = [this](const auto& job) { return bucket_of(*job) != nullptr; };
  if (!std::all_of(jobs.begin(), jobs.end(), fits)) {
    Jobs fitting;
    Refusals others;
    for (const auto& job : jobs) {
      fits(job) ? fitting.push_back(job) : void(others.emplace_back(job, Kind::too_large));
    }
    const bool taken = submit(fitting, helper);
    if (taken) {
      refuse(others);
    }
    return taken;
  }
  std::unique_lock lock(mutex);
  if (draining) {
    lock.unlock();
    for (const auto& job : jobs) {
      job->refused(Kind::unavailable);
    }
    return true;
  }
  const auto now = Clock::now();
  auto deadline = Clock::time_point::max();
  for (const auto& job : jobs) {
    deadline = std::min(deadline, job->deadline);
    job->queued = now;
  }
  // An empty queue takes everything it has room for: what a batch costs is only known from batches.
  const double left_us = std::chrono::duration<double, std::micro>(deadline - now).count();
  const bool late = waiting > 0 && left_us > 0 && left_us < backlog_us();
  if (waiting + jobs.size() > options.queue || late) {
    counts.overloaded += jobs.size();
    calm = 0;
    return false;
  }
  const bool alone = waiting == 0 && busy == 0;
  calm = alone ? calm + 1 : 0;
  if (Bucket* bucket = helper ? nullptr : lendable(jobs, now)) {
    lend(lock, *bucket, jobs);
    return true;
  }
  for (const auto& job : jobs) {
    bucket_of(*job)->push(job);
  }
  waiting += jobs.size();
  Worker* worker = helper ? nullptr : next();
  const bool look = needs_watch();
  lock.unlock();
  notify(worker);
  if (look) {
    watch.notify_one();
  }
  return true;
}

/// Short enough to keep a thread from what else it has to do.
bool Batcher::Impl::is_short(double us) const noexcept {
  return us > 0 && us < std::chrono::duration<double, std::micro>(options.lend).count();
}

Bucket* Batcher::Impl::lendable(std::span<const std::shared_ptr<Job>> jobs, Clock::time_point now) noexcept {
  if (calm == 0 || idle.empty() || options.wait != options.wait.zero()) {
    return nullptr;
  }
  Bucket* bucket = bucket_of(*jobs.front());
  const double us = bucket->row_us() * static_cast<double>(jobs.size());
  if (!is_short(us) || calm < calm_per_us * us || jobs.size() > bucket->most()) {
    return nullptr;
  }
  if (lent >= probe_every) {
    lent = {};
    return nullptr;
  }
  for (const auto& job : jobs) {
    if (Kind why{}; bucket_of(*job) != bucket || bucket->refuses(*job, now, why)) {
      return nullptr;
    }
  }
  return bucket;
}

void Batcher::Impl::lend(std::unique_lock<std::mutex>& lock, Bucket& bucket,
                         std::span<const std::shared_ptr<Job>> jobs) {
  busy += jobs.size();
  ++counts.batches;
  counts.rows += jobs.size();
  const auto begun = Clock::now();
  run_here(lock, bucket, jobs);
  lent += Clock::now() - begun;
  Worker* worker = next();
  lock.unlock();
  notify(worker);
}

/// On the calling thread, under the number of an idle worker, so that no more than `workers` run at once.
void Batcher::Impl::run_here(std::unique_lock<std::mutex>& lock, Bucket& bucket,
                             std::span<const std::shared_ptr<Job>> jobs) {
  Worker* place = idle.back();
  idle.pop_back();
  lender = std::this_thread::get_id();
  ++counts.lent;
  lock.unlock();
  const auto begun = Clock::now();
  runner.run(place->number, bucket.length(), jobs);
  const auto took = Clock::now() - begun;
  lock.lock();
  lender = {};
  bucket.learn(took, jobs.size());
  counts.answered += jobs.size();
  idle.push_back(place);
  settle(jobs.size());
}

bool Batcher::Impl::help() {
  Jobs jobs;
  Refusals refused;
  std::unique_lock lock(mutex);
  const Bucket* next_up = idle.empty() ? nullptr : first(Clock::now());
  if (next_up == nullptr) {
    return false;  // a worker that runs takes what waits before it rests
  }
  const std::size_t rows = std::min(next_up->size(), next_up->most());
  if (!is_short(next_up->row_us() * static_cast<double>(rows))) {
    Worker* worker = next();
    lock.unlock();
    notify(worker);
    return false;
  }
  Bucket* bucket = take(jobs, refused);
  if (!refused.empty()) {
    const std::size_t done = refused.size();
    lock.unlock();
    refuse(refused);
    lock.lock();
    settle(done);
  }
  if (bucket != nullptr) {
    run_here(lock, *bucket, jobs);
  }
  const bool more = waiting > 0;
  lock.unlock();
  jobs.clear();  // may be the last to hold a request, and what it holds: not under the lock
  return more;
}

}  // namespace atb
