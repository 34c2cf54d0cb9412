// A thread that asks for many rows and then computes them itself.
#include <boost/test/unit_test.hpp>

#include "batcher_fakes.h"

namespace atb::test {
namespace {

BatcherOptions helping() {
  BatcherOptions options;
  options.workers = 1;
  options.help = true;
  options.lend = std::chrono::microseconds(60s);  // however slow this machine is
  return options;
}

bool ask(Batcher& batcher, const std::vector<Counted>& jobs) {
  const std::vector<std::shared_ptr<Job>> plain(jobs.begin(), jobs.end());
  return batcher.submit_and_help(plain);
}

/// The worker has run something: what batches take is known.
void warm(Batcher& batcher) {
  for (const std::size_t length : {16U, 32U, 64U, 128U}) {
    auto one = job(length);
    submit(batcher, {one});
    one->wait();
  }
  while (batcher.counts().running > 0) {
    std::this_thread::yield();
  }
}

BOOST_AUTO_TEST_SUITE(help)

BOOST_AUTO_TEST_CASE(rows_wait_for_the_thread_that_asked_and_share_its_batches) {
  FakeRunner runner;
  Batcher batcher(runner, helping());
  BOOST_TEST(batcher.helps());
  warm(batcher);
  const auto before = runner.batches().size();
  std::vector<Counted> short_ones, long_ones;
  for (int i = 0; i < 5; ++i) {
    short_ones.push_back(job(10, i));
    long_ones.push_back(job(20, 100 + i));
    BOOST_TEST(ask(batcher, {short_ones.back()}));
    BOOST_TEST(ask(batcher, {long_ones.back()}));
  }
  BOOST_TEST(batcher.counts().waiting == 10U);
  BOOST_TEST(runner.batches().size() == before);
  BOOST_TEST(batcher.help());  // the five of the oldest row's length
  BOOST_TEST(batcher.counts().waiting == 5U);
  BOOST_TEST(!batcher.help());
  BOOST_TEST(runner.batches().size() == before + 2);
  for (const auto& jobs : {short_ones, long_ones}) {
    for (const auto& one : jobs) {
      BOOST_TEST(one->was_answered);
      BOOST_TEST((one->thread.load() == std::this_thread::get_id()));
    }
  }
  BOOST_TEST(!batcher.help());
  BOOST_TEST(runner.faults() == 0U);
}

BOOST_AUTO_TEST_CASE(a_long_batch_goes_to_a_worker) {
  FakeRunner runner;
  runner.work = [] { std::this_thread::sleep_for(3ms); };
  BatcherOptions options = helping();
  options.lend = 1ms;
  Batcher batcher(runner, options);
  warm(batcher);
  auto one = job(10);
  BOOST_TEST(ask(batcher, {one}));
  BOOST_TEST(!batcher.help());
  one->wait();
  BOOST_TEST((one->thread.load() != std::this_thread::get_id()));
}

BOOST_AUTO_TEST_CASE(a_busy_worker_takes_what_waits) {
  FakeRunner runner;
  Batcher batcher(runner, helping());
  warm(batcher);
  runner.shut(true);
  const auto before = runner.batches().size();
  BOOST_TEST(submit(batcher, {job(10), job(20)}));
  runner.wait_for_batches(before + 1);
  auto one = job(10);
  BOOST_TEST(ask(batcher, {one}));
  BOOST_TEST(!batcher.help());  // its number is in use
  runner.shut(false);
  one->wait();
  BOOST_TEST(one->was_answered);
}

BOOST_AUTO_TEST_CASE(what_is_over_uses_no_engine) {
  FakeRunner runner;
  Batcher batcher(runner, helping());
  warm(batcher);
  const auto before = batcher.counts().batches;
  auto gone = job(10), expired = job(10);
  gone->abandoned = true;
  expired->deadline = Clock::now() - 1ms;
  BOOST_TEST(ask(batcher, {gone, expired}));
  BOOST_TEST(!batcher.help());
  BOOST_TEST(gone->kind() == Kind::cancelled);
  BOOST_TEST(expired->kind() == Kind::expired);
  BOOST_TEST(batcher.counts().batches == before);
}

BOOST_AUTO_TEST_CASE(the_drain_and_the_end_need_no_help) {
  FakeRunner runner;
  auto drained = job(10), left = job(10);
  {
    Batcher batcher(runner, helping());
    warm(batcher);
    BOOST_TEST(ask(batcher, {drained}));
    BOOST_TEST(batcher.drain(Clock::now() + 60s));
    BOOST_TEST(drained->was_answered);
  }
  {
    Batcher batcher(runner, helping());
    warm(batcher);
    BOOST_TEST(ask(batcher, {left}));
  }
  BOOST_TEST(left->kind() == Kind::unavailable);
}

BOOST_AUTO_TEST_CASE(who_has_several_workers_wakes_them) {
  FakeRunner runner;
  BatcherOptions options = helping();
  options.workers = 2;
  Batcher batcher(runner, options);
  BOOST_TEST(!batcher.helps());
  auto one = job(10);
  BOOST_TEST(ask(batcher, {one}));
  one->wait();
  BOOST_TEST(one->was_answered);
}

BOOST_AUTO_TEST_CASE(many_threads_that_help_answer_each_row_once) {
  FakeRunner runner;
  Batcher batcher(runner, helping());
  warm(batcher);
  std::vector<std::vector<Counted>> asked(4);
  std::vector<std::thread> threads;
  for (auto& mine : asked) {
    threads.emplace_back([&batcher, &mine] {
      for (int i = 0; i < 2000; ++i) {
        mine.push_back(job(static_cast<std::size_t>(1 + i % 128)));
        if (i % 7 == 0) {
          submit(batcher, {mine.back()});
        } else if (!ask(batcher, {mine.back()})) {
          mine.pop_back();
        }
        while (i % 5 == 0 && batcher.help()) {
        }
      }
      while (batcher.help()) {
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  BOOST_TEST(batcher.drain(Clock::now() + 60s));
  std::size_t answered = 0;
  for (const auto& mine : asked) {
    for (const auto& one : mine) {
      BOOST_TEST_REQUIRE(one->calls <= 1);
      answered += one->was_answered ? 1U : 0U;
    }
  }
  BOOST_TEST(answered == batcher.counts().answered - 4U);  // those of `warm`
  BOOST_TEST(runner.faults() == 0U);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
