// The thread that submits as a worker.
#include <boost/test/unit_test.hpp>

#include "batcher_fakes.h"

namespace atb::test {
namespace {

BatcherOptions lending(unsigned workers = 1) {
  BatcherOptions options;
  options.workers = workers;
  options.lend = std::chrono::microseconds(60s);  // however slow this machine is
  return options;
}

BOOST_AUTO_TEST_SUITE(lend)

/// Requests one at a time, until one ran on this thread. False where none did.
bool calm(Batcher& batcher, int most = 1000) {
  for (int i = 0; i < most; ++i) {
    auto one = job(10);
    submit(batcher, {one});
    one->wait();
    if (one->thread.load() == std::this_thread::get_id()) {
      return true;
    }
    while (batcher.counts().running > 0) {
      std::this_thread::yield();
    }
  }
  return false;
}

BOOST_AUTO_TEST_CASE(one_request_at_a_time_runs_on_its_own_thread) {
  FakeRunner runner;
  Batcher batcher(runner, lending());
  BOOST_TEST(calm(batcher));
  const auto before = batcher.counts().lent;
  for (int i = 0; i < 50; ++i) {
    auto one = job(10);
    BOOST_TEST(submit(batcher, {one}));
    one->wait();
    while (batcher.counts().running > 0) {
      std::this_thread::yield();
    }
  }
  BOOST_TEST(batcher.counts().lent >= before + 25);
  BOOST_TEST(batcher.counts().answered == batcher.counts().rows);
  BOOST_TEST(runner.faults() == 0U);
}

BOOST_AUTO_TEST_CASE(some_go_to_a_worker_all_the_same_and_tell_whether_others_wait) {
  FakeRunner runner;
  runner.work = [] { std::this_thread::sleep_for(200us); };
  Batcher batcher(runner, lending());
  int here = 0, there = 0;
  for (int i = 0; i < 1000; ++i) {
    auto one = job(10);
    BOOST_TEST_REQUIRE(submit(batcher, {one}));
    one->wait();
    if (i >= 500) {  // calm for long
      ++(one->thread.load() == std::this_thread::get_id() ? here : there);
    }
    while (batcher.counts().running > 0) {
      std::this_thread::yield();
    }
  }
  BOOST_TEST(there >= 1);
  BOOST_TEST(here > there);
}

BOOST_AUTO_TEST_CASE(not_while_another_runs) {
  FakeRunner runner;
  Batcher batcher(runner, lending(2));
  BOOST_TEST(calm(batcher));
  runner.shut(true);
  const auto ran = runner.batches().size();
  std::thread other([&] { submit(batcher, {job(10)}); });
  runner.wait_for_batches(ran + 1);
  auto second = job(10);
  BOOST_TEST(submit(batcher, {second}));  // would not return
  runner.shut(false);
  second->wait();
  BOOST_TEST((second->thread.load() != std::this_thread::get_id()));
  other.join();
}

BOOST_AUTO_TEST_CASE(what_comes_meanwhile_is_answered_with_one_worker_too) {
  FakeRunner runner;
  Batcher batcher(runner, lending(1));
  for (int round = 0; round < 50; ++round) {
    BOOST_TEST_REQUIRE(calm(batcher));
    runner.shut(true);
    const auto ran = runner.batches().size();
    std::thread other([&] { submit(batcher, {job(10)}); });
    runner.wait_for_batches(ran + 1);
    auto second = job(10);
    BOOST_TEST_REQUIRE(submit(batcher, {second}));
    runner.shut(false);
    second->wait();  // or hangs: the worker whose place was lent must be woken
    other.join();
  }
  BOOST_TEST(runner.faults() == 0U);
}

BOOST_AUTO_TEST_CASE(not_where_it_is_switched_off_or_slow_or_more_than_a_batch) {
  FakeRunner runner;
  auto options = lending();
  options.lend = 0us;
  {
    Batcher never(runner, options);
    BOOST_TEST(!calm(never));
  }
  options.lend = 1us;
  runner.work = [] { std::this_thread::sleep_for(10us); };
  {
    Batcher slow(runner, options);
    BOOST_TEST(!calm(slow));
  }
  runner.work = [] {};
  Batcher batcher(runner, lending());
  const auto lent_for = [&](const std::vector<Counted>& jobs) {
    for (int i = 0; i < 1000; ++i) {  // calm enough for any
      auto one = job(10);
      submit(batcher, {one});
      one->wait();
      while (batcher.counts().running > 0) {
        std::this_thread::yield();
      }
    }
    const auto before = batcher.counts().lent;
    submit(batcher, jobs);
    for (const auto& x : jobs) {
      x->wait();
    }
    return batcher.counts().lent - before;
  };
  std::vector<Counted> nine(9);
  std::generate(nine.begin(), nine.end(), [] { return job(10); });
  BOOST_TEST(lent_for(nine) == 0U);
  BOOST_TEST(lent_for({job(10), job(100)}) == 0U);
  BOOST_TEST(lent_for({job(10), job(10)}) <= 1U);
  BOOST_TEST(runner.faults() == 0U);
}

BOOST_AUTO_TEST_CASE(who_lends_himself_cannot_end_the_batcher) {
  FakeRunner runner;
  Batcher batcher(runner, lending());
  BOOST_TEST(!batcher.mine());
  BOOST_TEST(calm(batcher));
  bool here = false, there = false;
  for (int i = 0; i < 2000 && !(here && there); ++i) {
    auto one = job(10);
    bool mine = false;
    one->then = [&] { mine = batcher.mine(); };
    submit(batcher, {one});
    one->wait();
    BOOST_TEST_REQUIRE(mine);
    (one->thread.load() == std::this_thread::get_id() ? here : there) = true;
    if (i % 20 == 0) {
      submit(batcher, {job(10), job(100)});  // two lengths: for a worker
    }
  }
  BOOST_TEST(here);
}

BOOST_AUTO_TEST_CASE(the_end_waits_for_who_lends_himself) {
  FakeRunner runner;
  auto batcher = std::make_unique<Batcher>(runner, lending(2));
  BOOST_TEST(calm(*batcher));
  runner.shut(true);
  const auto ran = runner.batches().size();
  auto last = job(10);
  std::thread lender([&] { submit(*batcher, {last}); });
  runner.wait_for_batches(ran + 1);
  std::thread opens([&] {
    std::this_thread::sleep_for(5ms);
    runner.shut(false);
  });
  batcher.reset();
  BOOST_TEST(last->was_answered);
  lender.join();
  opens.join();
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
