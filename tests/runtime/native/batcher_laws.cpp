// What holds of a batcher whatever is asked of it.
#define BOOST_TEST_MODULE batcher
#include <boost/test/included/unit_test.hpp>
#include <random>

#include "batcher_fakes.h"

namespace atb::test {
namespace {

Clock::time_point far() { return Clock::now() + 60s; }

BOOST_AUTO_TEST_CASE(every_job_is_answered_or_refused_once) {
  for (const unsigned workers : {1U, 3U}) {
    FakeRunner runner;
    runner.work = [] { std::this_thread::sleep_for(20us); };
    BatcherOptions options;
    options.workers = workers;
    options.queue = 40;
    std::vector<Counted> taken, untaken;
    std::mutex mutex;
    {
      Batcher batcher(runner, options);
      BOOST_TEST(runner.starts == workers);
      std::vector<std::thread> threads;
      for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&, seed] {
          std::mt19937 random(seed);
          const auto below = [&](unsigned n) { return random() % n; };
          for (int request = 0; request < 400; ++request) {
            std::vector<Counted> jobs;
            for (unsigned i = 0; i < 1 + below(12); ++i) {
              jobs.push_back(job(1 + below(below(50) == 0 ? 200 : 128)));
              if (below(3) == 0) {
                jobs.back()->deadline = Clock::now() + std::chrono::microseconds(below(400)) - 50us;
              }
              jobs.back()->abandoned = below(20) == 0;
            }
            const bool yes = submit(batcher, jobs);
            if (below(4) == 0) {
              jobs.front()->abandoned = true;
            } else if (below(4) == 0 && yes) {
              jobs.back()->wait();
            }
            const std::lock_guard lock(mutex);
            auto& list = yes ? taken : untaken;
            list.insert(list.end(), jobs.begin(), jobs.end());
          }
        });
      }
      if (workers == 1) {  // drained, or destroyed while things wait
        for (auto& thread : threads) {
          thread.join();
        }
        BOOST_TEST(batcher.drain(far()));
        for (const auto& x : taken) {
          BOOST_TEST_REQUIRE(x->calls == 1);
        }
        const auto counts = batcher.counts();
        BOOST_TEST(counts.waiting == 0U);
        BOOST_TEST(counts.running == 0U);
        BOOST_TEST(counts.overloaded <= untaken.size());
        const auto too_large = std::count_if(
            taken.begin(), taken.end(), [](const auto& x) { return !x->was_answered && x->kind() == Kind::too_large; });
        BOOST_TEST(counts.answered + counts.expired + counts.cancelled + static_cast<std::size_t>(too_large) ==
                   taken.size());
        BOOST_TEST(counts.answered == counts.rows);
      } else {
        BOOST_TEST(batcher.drain(far()));  // while others submit
        for (auto& thread : threads) {
          thread.join();
        }
      }
    }
    for (const auto& x : taken) {
      BOOST_TEST_REQUIRE(x->calls == 1);
    }
    for (const auto& x : untaken) {
      BOOST_TEST_REQUIRE(x->calls == 0);
    }
    BOOST_TEST(runner.faults() == 0U);
  }
}

BOOST_AUTO_TEST_CASE(its_end_refuses_what_waits_and_answers_what_runs) {
  FakeRunner runner;
  auto running = job(10);
  auto waiting = job(10);
  std::thread end;
  {
    auto batcher = std::make_unique<Batcher>(runner, one_worker());
    runner.shut(true);
    BOOST_TEST(submit(*batcher, {running}));
    runner.wait_for_batches(1);
    BOOST_TEST(submit(*batcher, {waiting}));
    end = std::thread([&] { batcher.reset(); });
    waiting->wait();  // at once, though the other still runs
    BOOST_TEST(running->calls == 0);
    runner.shut(false);
    end.join();
  }
  BOOST_TEST(waiting->kind() == Kind::unavailable);
  BOOST_TEST(running->was_answered);
}

BOOST_AUTO_TEST_CASE(all_jobs_of_a_request_or_none) {
  FakeRunner runner;
  BatcherOptions options = one_worker();
  options.queue = 4;
  Batcher batcher(runner, options);
  runner.shut(true);
  auto first = job(10);
  BOOST_TEST(submit(batcher, {first}));
  runner.wait_for_batches(1);
  std::vector<Counted> three{job(10), job(10), job(10)};
  std::vector<Counted> two{job(10), job(10)};
  std::vector<Counted> one{job(10)};
  BOOST_TEST(submit(batcher, three));
  BOOST_TEST(!submit(batcher, two));
  BOOST_TEST(!batcher.full());
  BOOST_TEST(submit(batcher, one));
  BOOST_TEST(batcher.full());
  BOOST_TEST(!submit(batcher, {job(10)}));
  BOOST_TEST(batcher.counts().overloaded == 3U);
  BOOST_TEST(batcher.counts().waiting == 4U);
  BOOST_TEST(batcher.counts().running == 1U);
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  BOOST_TEST(three.back()->was_answered);
  BOOST_TEST(one.back()->was_answered);
  BOOST_TEST(two.front()->calls == 0);
}

BOOST_AUTO_TEST_CASE(drained_it_takes_nothing_new) {
  FakeRunner runner;
  Batcher batcher(runner, one_worker());
  BOOST_TEST(batcher.drain(Clock::now()));
  auto late = job(10);
  BOOST_TEST(submit(batcher, {late}));
  BOOST_TEST(late->kind() == Kind::unavailable);
  BOOST_TEST(late->calls == 1);
}

BOOST_AUTO_TEST_CASE(a_drain_that_runs_out_of_time_says_so) {
  FakeRunner runner;
  Batcher batcher(runner, one_worker());
  runner.shut(true);
  auto slow = job(10);
  BOOST_TEST(submit(batcher, {slow}));
  BOOST_TEST(!batcher.drain(Clock::now() + 1ms));
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  BOOST_TEST(slow->was_answered);
}

BOOST_AUTO_TEST_CASE(the_oldest_goes_first_with_all_of_its_length) {
  FakeRunner runner({16, 32, 64}, 4);
  Batcher batcher(runner, one_worker());
  runner.shut(true);
  BOOST_TEST(submit(batcher, {job(16, -1)}));
  runner.wait_for_batches(1);
  const std::vector<std::size_t> sizes{20, 3, 64, 4, 5, 32, 6, 7, 33, 8};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    BOOST_TEST(submit(batcher, {job(sizes[i], static_cast<int>(i))}));
  }
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  const auto batches = runner.batches();
  const std::vector<std::pair<std::size_t, std::vector<int>>> wanted{
      {16, {-1}}, {32, {0, 5}}, {16, {1, 3, 4, 6}}, {64, {2, 8}}, {16, {7, 9}}};
  BOOST_TEST_REQUIRE(batches.size() == wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    BOOST_TEST(batches[i].length == wanted[i].first);
    BOOST_TEST(batches[i].ids == wanted[i].second, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(no_length_starves) {
  FakeRunner runner({16, 64}, 2);
  Batcher batcher(runner, one_worker());
  runner.shut(true);
  BOOST_TEST(submit(batcher, {job(1, -1)}));
  runner.wait_for_batches(1);
  for (int i = 0; i < 6; ++i) {
    BOOST_TEST(submit(batcher, {job(1, i)}));
  }
  auto rare = job(60, 1000);
  BOOST_TEST(submit(batcher, {rare}));
  for (int i = 6; i < 100; ++i) {
    BOOST_TEST(submit(batcher, {job(1, i)}));
  }
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  const auto batches = runner.batches();
  BOOST_TEST(batches[4].length == 64U);  // after the six that were there first, before the 94 that came later
}

BOOST_AUTO_TEST_CASE(batches_keep_within_the_tokens) {
  FakeRunner runner({16, 32, 64, 128}, 8);
  BatcherOptions options = one_worker();
  options.tokens = 100;
  Batcher batcher(runner, options);
  runner.shut(true);
  BOOST_TEST(submit(batcher, {job(1)}));
  runner.wait_for_batches(1);
  std::vector<Counted> jobs;
  for (std::size_t i = 0; i < 60; ++i) {
    jobs.push_back(job(1 + i * 2));
  }
  BOOST_TEST(submit(batcher, jobs));
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  std::size_t largest = 0;
  for (const auto& batch : runner.batches()) {
    BOOST_TEST((batch.ids.size() == 1 || batch.ids.size() * batch.length <= 100));
    largest = std::max(largest, batch.ids.size());
  }
  BOOST_TEST(largest == 6U);  // of 16 tokens
}

BOOST_AUTO_TEST_CASE(what_is_over_uses_no_engine) {
  FakeRunner runner;
  Batcher batcher(runner, one_worker());
  runner.shut(true);
  BOOST_TEST(submit(batcher, {job(1, 1)}));
  runner.wait_for_batches(1);
  auto gone = job(1, 2);
  auto expired = job(40, 3);
  auto fine = job(1, 4);
  expired->deadline = Clock::now() + 1ms;
  gone->abandoned = true;
  BOOST_TEST(submit(batcher, {gone, expired, fine}));
  expired->wait();  // long before its turn: the only worker is in a batch that does not end
  gone->wait();
  BOOST_TEST(expired->kind() == Kind::expired);
  BOOST_TEST(gone->kind() == Kind::cancelled);
  BOOST_TEST(fine->calls == 0);
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
  BOOST_TEST(fine->was_answered);
  const auto counts = batcher.counts();
  BOOST_TEST(counts.expired == 1U);
  BOOST_TEST(counts.cancelled == 1U);
  BOOST_TEST(counts.rows == 2U);
  BOOST_TEST(runner.batches().back().ids == std::vector<int>{4}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(who_cannot_be_answered_in_time_uses_no_engine) {
  FakeRunner runner;
  runner.work = [] { std::this_thread::sleep_for(20ms); };
  Batcher batcher(runner, one_worker());
  auto first = job(1, 1);
  BOOST_TEST(submit(batcher, {first}));
  first->wait();
  auto hurried = job(1, 2);
  hurried->deadline = Clock::now() + 10ms;  // less than any batch took
  BOOST_TEST(submit(batcher, {hurried}));
  hurried->wait();
  BOOST_TEST(hurried->kind() == Kind::expired);
  BOOST_TEST(runner.batches().size() == 1U);
}

BOOST_AUTO_TEST_CASE(a_slow_moment_refuses_nobody_for_good) {
  FakeRunner runner;
  std::atomic<bool> slow = true;
  runner.work = [&] { std::this_thread::sleep_for(slow ? 300ms : 0ms); };
  Batcher batcher(runner, one_worker());
  auto first = job(1);
  BOOST_TEST(submit(batcher, {first}));
  first->wait();
  slow = false;
  int refused = 0;
  for (bool answered = false; !answered; refused += answered ? 0 : 1) {
    auto next = job(1);
    next->deadline = Clock::now() + 250ms;
    BOOST_TEST(submit(batcher, {next}));
    next->wait();
    answered = next->was_answered;
    BOOST_TEST_REQUIRE(refused < 100);
  }
}

BOOST_AUTO_TEST_CASE(a_queue_longer_than_the_deadline_is_full) {
  FakeRunner runner({16}, 1);
  runner.work = [] { std::this_thread::sleep_for(5ms); };
  Batcher batcher(runner, one_worker());
  auto first = job(1);
  BOOST_TEST(submit(batcher, {first}));
  first->wait();
  runner.shut(true);
  BOOST_TEST(submit(batcher, {job(1)}));
  runner.wait_for_batches(2);
  std::vector<Counted> many(100);
  std::generate(many.begin(), many.end(), [] { return job(1); });
  BOOST_TEST(submit(batcher, many));  // half a second's work
  BOOST_TEST(batcher.backlog().count() >= 400'000);
  auto hurried = job(1);
  hurried->deadline = Clock::now() + 300ms;
  BOOST_TEST(!submit(batcher, {hurried}));
  auto patient = job(1);
  patient->deadline = far();
  BOOST_TEST(submit(batcher, {patient}));
  runner.shut(false);
}

BOOST_AUTO_TEST_CASE(rows_longer_than_any_engine_are_refused_alone) {
  FakeRunner runner;
  Batcher batcher(runner, one_worker());
  auto fine = job(128);
  auto long_one = job(129);
  BOOST_TEST(submit(batcher, {fine, long_one}));
  BOOST_TEST(batcher.drain(far()));
  BOOST_TEST(fine->was_answered);
  BOOST_TEST(long_one->kind() == Kind::too_large);
  BOOST_TEST(long_one->calls == 1);
}

BOOST_AUTO_TEST_CASE(a_job_may_submit_another) {
  FakeRunner runner;
  BatcherOptions options;
  options.workers = 2;
  Batcher batcher(runner, options);
  std::vector<Counted> chain;
  for (int i = 0; i < 200; ++i) {
    chain.push_back(job(1, i));
  }
  for (std::size_t i = 0; i + 1 < chain.size(); ++i) {
    chain[i]->then = [&, i] { submit(batcher, {chain[i + 1]}); };
  }
  BOOST_TEST(submit(batcher, {chain.front()}));
  chain.back()->wait();
  BOOST_TEST(batcher.drain(far()));
}

BOOST_AUTO_TEST_CASE(all_workers_work) {
  FakeRunner runner({16}, 1);
  BatcherOptions options = one_worker();
  options.workers = 4;
  Batcher batcher(runner, options);
  BOOST_TEST(batcher.workers() == 4U);
  runner.shut(true);
  std::vector<Counted> jobs{job(1), job(1), job(1), job(1), job(1)};
  BOOST_TEST(submit(batcher, jobs));
  runner.wait_for_batches(4);  // or hangs
  BOOST_TEST(batcher.counts().waiting == 1U);
  runner.shut(false);
  BOOST_TEST(batcher.drain(far()));
}

BOOST_AUTO_TEST_CASE(with_a_wait_full_batches_go_at_once_and_so_does_a_drain) {
  FakeRunner runner({16, 32}, 4);
  BatcherOptions options = one_worker();
  options.wait = std::chrono::microseconds(3600s);
  Batcher batcher(runner, options);
  std::vector<Counted> jobs{job(1, 1), job(1, 2), job(20, 5), job(1, 3), job(1, 4)};
  for (const auto& x : jobs) {
    BOOST_TEST(submit(batcher, {x}));
  }
  jobs.back()->wait();  // or hangs
  BOOST_TEST(runner.batches().front().ids == (std::vector<int>{1, 2, 3, 4}), boost::test_tools::per_element());
  BOOST_TEST(jobs[2]->calls == 0);
  BOOST_TEST(batcher.drain(far()));
  BOOST_TEST(jobs[2]->was_answered);
}

BOOST_AUTO_TEST_CASE(a_wait_ends) {
  FakeRunner runner;
  BatcherOptions options = one_worker();
  options.workers = 3;
  options.wait = std::chrono::microseconds(5ms);
  Batcher batcher(runner, options);
  std::vector<Counted> jobs;
  for (int i = 0; i < 60; ++i) {
    jobs.push_back(job(1 + static_cast<std::size_t>(i) * 2, i));
    BOOST_TEST(submit(batcher, {jobs.back()}));
    std::this_thread::sleep_for(i % 7 * 1ms);
  }
  for (const auto& x : jobs) {
    x->wait();
    BOOST_TEST(x->was_answered);
  }
}

}  // namespace
}  // namespace atb::test
