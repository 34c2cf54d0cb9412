// What a request pays beside its engine when a worker answers it, and when the thread that submits it does.
//
//     handoff [--engine-us 50] [--pause-us 20] [--requests 20000]
//
// One thread stands for a server's event loop with one connection: it submits a row, sleeps in epoll until it is
// answered (a worker tells it through an eventfd), and after a pause as long as a client's turn submits the next. The
// last line is JSON: microseconds from before `submit` until the loop has the answer, without the engine's own.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "atb/batcher.h"

namespace {

using namespace std::chrono_literals;
using atb::Clock;

class Spinner : public atb::Runner {
 public:
  explicit Spinner(std::chrono::microseconds cost) : cost_(cost) {}
  void run(unsigned /*worker*/, std::size_t length, std::span<const std::shared_ptr<atb::Job>> jobs) noexcept override {
    const auto until = Clock::now() + cost_;
    while (Clock::now() < until) {
    }
    atb::Run run;
    run.batch = jobs.size();
    run.length = length;
    for (const auto& job : jobs) {
      job->answered({}, run);
    }
  }
  [[nodiscard]] std::span<const std::size_t> lengths() const noexcept override { return lengths_; }
  [[nodiscard]] std::size_t rows(std::size_t /*length*/) const noexcept override { return 8; }

 private:
  std::chrono::microseconds cost_;
  std::vector<std::size_t> lengths_{16, 32, 64, 128};
};

class Loop {
 public:
  Loop() {
    for (const int fd : {answer_, timer_}) {
      epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
      ::epoll_ctl(poll_, EPOLL_CTL_ADD, fd, &event);
    }
  }
  ~Loop() {
    for (const int fd : {answer_, timer_, poll_}) {
      ::close(fd);
    }
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void tell() const noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(answer_, &one, sizeof one);
  }
  void wait() const {
    epoll_event event{};
    while (::epoll_wait(poll_, &event, 1, -1) != 1) {
    }
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(event.data.fd, &count, sizeof count);
  }
  void pause(std::chrono::nanoseconds time) const {
    if (time > 0ns) {
      const itimerspec spec{.it_interval = {}, .it_value = {.tv_sec = time / 1s, .tv_nsec = (time % 1s).count()}};
      ::timerfd_settime(timer_, 0, &spec, nullptr);
      wait();
    }
  }

 private:
  int poll_ = ::epoll_create1(0);
  int answer_ = ::eventfd(0, 0);
  int timer_ = ::timerfd_create(CLOCK_MONOTONIC, 0);
};

class Row : public atb::Job {
 public:
  explicit Row(const Loop& loop) : loop_(loop) {
    tokens.ids.assign(12, 1);
    tokens.types.assign(12, 0);
  }
  void answered(std::span<const float> /*logits*/, const atb::Run& /*run*/) noexcept override {
    by_worker = !submitting;
    done = true;
    if (!submitting) {
      loop_.tell();
    }
  }
  void refused(atb::Kind /*why*/) noexcept override { std::abort(); }

  std::atomic<bool> done = false, by_worker = false;
  static thread_local bool submitting;  // of the thread that asks: an answer within `submit` needs no telling

 private:
  const Loop& loop_;
};
thread_local bool Row::submitting = false;

nlohmann::ordered_json measure(const atb::BatcherOptions& options, std::chrono::microseconds engine,
                               std::chrono::microseconds pause, std::size_t requests) {
  Spinner spinner(engine);
  Loop loop;
  atb::Batcher batcher(spinner, options);
  std::vector<double> us;
  for (std::size_t i = 0; i < requests; ++i) {
    const std::shared_ptr<atb::Job> row = std::make_shared<Row>(loop);
    const auto begun = Clock::now();
    Row::submitting = true;
    batcher.submit({&row, 1});
    Row::submitting = false;
    if (static_cast<Row&>(*row).by_worker || !static_cast<Row&>(*row).done) {
      loop.wait();
    }
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begun - engine).count());
    loop.pause(pause);
  }
  us.erase(us.begin(), us.begin() + static_cast<std::ptrdiff_t>(us.size() / 10));
  std::sort(us.begin(), us.end());
  const auto at = [&](double share) {
    return us[static_cast<std::size_t>(share * static_cast<double>(us.size() - 1))];
  };
  return {{"p50_us", at(0.5)}, {"p99_us", at(0.99)}, {"lent", batcher.counts().lent}, {"requests", requests}};
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t engine = 50, pause = 20, requests = 20000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const auto value = static_cast<std::size_t>(std::atoll(argv[i + 1]));
    (name == "--engine-us" ? engine : name == "--pause-us" ? pause : requests) = value;
  }
  nlohmann::ordered_json out;
  for (const bool lend : {true, false}) {
    for (const bool pin : {true, false}) {
      atb::BatcherOptions options;
      options.lend = lend ? options.lend : 0us;
      options.pin = pin;
      const std::string name = std::string(lend ? "lent" : "worker") + (pin ? ", pinned" : "");
      out[name] = measure(options, std::chrono::microseconds(engine), std::chrono::microseconds(pause), requests);
      std::printf("%-16s p50 %7.1f us  p99 %7.1f us  lent %zu of %zu\n", name.c_str(),
                  out[name]["p50_us"].get<double>(), out[name]["p99_us"].get<double>(),
                  out[name]["lent"].get<std::size_t>(), requests);
    }
  }
  std::printf("%s\n", out.dump().c_str());
}
