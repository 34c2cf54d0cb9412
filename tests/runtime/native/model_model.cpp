// A model answers what its engines answer, whoever asks beside whom.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "batcher_fakes.h"
#include "model_fakes.h"

namespace atb::test {
namespace {

constexpr std::size_t kLengths[] = {16, 32, 64};

std::size_t shortest(std::size_t tokens) { return *std::lower_bound(std::begin(kLengths), std::end(kLengths), tokens); }

std::shared_ptr<Facts> cheap_batches() {
  auto facts = std::make_shared<Facts>();
  facts->cost = [](std::size_t rows) { return std::chrono::microseconds(60 + 10 * rows); };
  return facts;
}

BOOST_AUTO_TEST_SUITE(models)

BOOST_AUTO_TEST_CASE(every_row_is_answered_as_alone_at_the_shortest_length) {
  const auto facts = cheap_batches();
  ModelOptions options;
  options.batcher.workers = 2;
  const auto all = model(facts, {entry(32), entry(64), entry(16)}, options);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0, answered = 0, batched = 0;
  for (std::uint32_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::uint32_t round = 0; round < 60; ++round) {
        std::vector<std::shared_ptr<Asked>> asked;
        for (std::uint32_t i = 0; i < 1 + round % 11; ++i) {
          asked.push_back(ask(*all, encoding(1 + (thread * 7919 + round * 31 + i * 17) % 64, thread * 1000 + round)));
        }
        for (const auto& job : asked) {
          job->wait();
          const std::size_t length = shortest(job->tokens.size());
          wrong += !same_bits(job->logits, expected(*facts, job->tokens, length)) || job->logits.empty();
          wrong += job->run.length != length || job->run.begun > job->run.ended || job->run.queued > job->run.begun;
          batched += job->run.batch > 1;
          ++answered;
        }
        const auto alone = encoding(1 + round, round);
        wrong += !same_bits(all->logits(alone), expected(*facts, alone, shortest(alone.size())));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  BOOST_TEST(wrong == 0);
  BOOST_TEST(answered > 1000);
  BOOST_TEST(batched > 0);
}

BOOST_AUTO_TEST_CASE(a_dynamic_engine_answers_rows_at_their_own_length) {
  const auto facts = cheap_batches();
  const auto all = model(facts, {entry(64, 1, true)});
  std::vector<std::shared_ptr<Asked>> asked;
  for (std::size_t size = 1; size <= 64; ++size) {
    asked.push_back(ask(*all, encoding(size)));
  }
  for (const auto& job : asked) {
    job->wait();
    BOOST_TEST(same_bits(job->logits, expected(*facts, job->tokens, job->tokens.size())));
    BOOST_TEST(job->run.length == job->tokens.size());
  }
  BOOST_TEST(same_bits(all->logits(encoding(9)), expected(*facts, encoding(9), 9)));
}

BOOST_AUTO_TEST_CASE(rows_that_are_none_are_refused_alone) {
  const auto facts = cheap_batches();
  ModelOptions options;
  options.batcher = one_worker();
  const auto all = model(facts, {entry(16)}, options);
  std::vector<std::shared_ptr<Job>> jobs;
  for (int i = 0; i < 8; ++i) {
    auto row = encoding(5, static_cast<std::uint32_t>(i));
    if (i % 2 == 1) {
      row.ids[2] = i == 1 ? -1 : 1'000'000;
    }
    jobs.push_back(std::make_shared<Asked>(row));
  }
  BOOST_TEST(all->batcher().submit(jobs));
  for (std::size_t i = 0; i < 8; ++i) {
    const auto& job = static_cast<Asked&>(*jobs[i]);
    job.wait();
    if (i % 2 == 1) {
      BOOST_TEST(job.why == Kind::invalid);
      BOOST_TEST(job.logits.empty());
    } else {
      BOOST_TEST(same_bits(job.logits, expected(*facts, job.tokens, 16)));
    }
  }
  const auto none = ask(*all, {});
  none->wait();
  BOOST_TEST(none->why == Kind::invalid);
  const auto too_long = ask(*all, encoding(17));
  too_long->wait();
  BOOST_TEST(too_long->why == Kind::too_large);
  const auto kind_of = [&](const Encoding& row) {
    try {
      static_cast<void>(all->logits(row));
    } catch (const Error& error) {
      return error.kind();
    }
    return Kind::bundle;
  };
  BOOST_TEST(kind_of({}) == Kind::invalid);
  BOOST_TEST(kind_of(encoding(17)) == Kind::invalid);
  BOOST_TEST(kind_of(static_cast<Asked&>(*jobs[1]).tokens) == Kind::invalid);
}

BOOST_AUTO_TEST_CASE(an_answer_that_is_no_number_is_an_error) {
  const auto facts = cheap_batches();
  ModelOptions options;
  options.batcher = one_worker();
  const auto all = model(facts, {entry(16)}, options);
  auto bad = encoding(5);
  bad.ids[0] = 11;
  facts->poison = 11;
  std::vector<std::shared_ptr<Job>> jobs{std::make_shared<Asked>(bad), std::make_shared<Asked>(encoding(5))};
  jobs[1]->tokens.ids[0] = 12;
  BOOST_TEST(all->batcher().submit(jobs));
  static_cast<Asked&>(*jobs[0]).wait();
  static_cast<Asked&>(*jobs[1]).wait();
  BOOST_TEST(static_cast<Asked&>(*jobs[0]).why == Kind::internal);
  BOOST_TEST(static_cast<Asked&>(*jobs[0]).logits.empty());
  BOOST_TEST(static_cast<Asked&>(*jobs[1]).logits.size() == 2U);
  BOOST_CHECK_THROW(static_cast<void>(all->logits(bad)), Error);
  std::vector<Score> scores;
  const float nan[] = {0, std::nanf("")};
  const float infinite[] = {0, std::numeric_limits<float>::infinity()};
  const float three[] = {0, 1, 2};
  BOOST_CHECK_THROW(all->scores(nan, scores), Error);
  BOOST_CHECK_THROW(all->scores(infinite, scores), Error);
  BOOST_CHECK_THROW(all->scores(three, scores), Error);
}

BOOST_AUTO_TEST_CASE(an_engine_that_fails_refuses_its_batch_and_goes_on) {
  const auto facts = cheap_batches();
  ModelOptions options;
  options.batcher.workers = 1;
  const auto all = model(facts, {entry(16)}, options);
  auto bad = encoding(5);
  bad.ids[0] = 11;
  facts->bomb = 11;
  const auto failed = ask(*all, bad);
  failed->wait();
  BOOST_TEST(failed->why == Kind::internal);
  BOOST_TEST(failed->logits.empty());
  auto good = encoding(5);
  good.ids[0] = 12;
  const auto after = ask(*all, good);
  after->wait();
  BOOST_TEST(same_bits(after->logits, expected(*facts, good, 16)));
  BOOST_CHECK_THROW(static_cast<void>(all->logits(bad)), Error);
  BOOST_TEST(same_bits(all->logits(good), expected(*facts, good, 16)));
}

BOOST_AUTO_TEST_CASE(scores_are_a_softmax_best_first_and_ties_stay_in_order) {
  auto facts = std::make_shared<Facts>();
  facts->labels = 4;
  const auto all = model(facts, {entry(16)});
  const float logits[] = {1.5F, -2.25F, 3.0F, 1.5F};
  std::vector<Score> scores{{"stale", 1}};
  all->scores(logits, scores);
  // numpy: x = np.exp(logits - logits.max()); x / x.sum()
  const std::pair<const char*, double> wanted[] = {{"label2", 0.6888341750271183},
                                                   {"label0", 0.15369968081758612},
                                                   {"label3", 0.15369968081758612},
                                                   {"label1", 0.0036146329471955}};
  BOOST_TEST_REQUIRE(scores.size() == 4U);
  double sum = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    BOOST_TEST(scores[i].label == wanted[i].first);
    const double value = std::exp(static_cast<double>(logits[static_cast<std::size_t>(wanted[i].first[5] - '0')]) - 3);
    BOOST_TEST(scores[i].score == value / (1 + 2 * std::exp(-1.5) + std::exp(-5.25)),
               boost::test_tools::tolerance(1e-15));
    sum += scores[i].score;
  }
  BOOST_TEST(sum == 1, boost::test_tools::tolerance(1e-15));
  const float huge[] = {3e38F, -3e38F, 3e38F, 0};
  all->scores(huge, scores);
  BOOST_TEST(scores[0].label == "label0");
  BOOST_TEST(scores[0].score == 0.5);
  BOOST_TEST(scores[1].label == "label2");
  BOOST_TEST(scores[3].score == 0);
}

BOOST_AUTO_TEST_CASE(a_regression_answers_its_value) {
  auto facts = std::make_shared<Facts>();
  facts->labels = 1;
  Bundle plain = bundle(*facts);
  plain.task = Task::regression;
  const auto all = Model::make(plain, tokenizer(), {entry(16)}, opener(facts), {});
  std::vector<Score> scores;
  const float logits[] = {-4.5F};
  all->scores(logits, scores);
  BOOST_TEST_REQUIRE(scores.size() == 1U);
  BOOST_TEST(scores[0].score == -4.5);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_together_is_refused) {
  const auto facts = cheap_batches();
  const auto why = [&](const std::vector<EngineEntry>& entries, const Bundle& of) -> std::string {
    try {
      Model::make(of, tokenizer(), entries, opener(facts), {});
    } catch (const Error& error) {
      BOOST_TEST(error.kind() == Kind::bundle);
      return error.what();
    }
    return "";
  };
  BOOST_TEST(why({}, bundle()).find("no engine") != std::string::npos);
  BOOST_TEST(why({entry(16), entry(16)}, bundle()).find("several of length 16") != std::string::npos);
  BOOST_TEST(why({entry(2)}, bundle()).find("no pair of texts fits into 2") != std::string::npos);
  Bundle short_one = bundle();
  short_one.max_length = 2;
  BOOST_TEST(why({entry(16)}, short_one).find("no pair of texts fits into 2") != std::string::npos);
  Bundle three = bundle();
  three.labels.emplace_back("third");
  BOOST_TEST(why({entry(16)}, three).find("3 labels") != std::string::npos);
  BOOST_TEST(facts->alive == 0);
}

BOOST_AUTO_TEST_CASE(it_says_what_answers) {
  const auto facts = cheap_batches();
  ModelOptions options;
  options.batcher.workers = 2;
  const auto all = model(facts, {entry(32), entry(16)}, options);
  const auto told = nlohmann::json::parse(all->describe());
  BOOST_TEST(told["workers"] == 2);
  BOOST_TEST_REQUIRE(told["engines"].size() == 2U);
  BOOST_TEST(told["engines"][0]["length"] == 16);
  BOOST_TEST(told["engines"][0]["batches"][0]["rows"] == 1);
  BOOST_TEST(all->max_length() == 32U);
  BOOST_TEST((facts->opened.contains({8, 32})));  // of 1, 2, 4 and 8 rows
}

BOOST_AUTO_TEST_CASE(the_last_to_hold_it_may_be_its_own_job) {
  const auto facts = std::make_shared<Facts>();
  facts->cost = [](std::size_t) { return std::chrono::microseconds(2000); };  // the job is the last to hold it
  for (int round = 0; round < 5; ++round) {
    ModelOptions options;
    options.batcher.workers = 2;
    auto all = model(facts, {entry(16)}, options);
    const auto job = std::make_shared<Asked>(encoding(4));
    job->holds = all;
    const std::shared_ptr<Job> plain = job;
    BOOST_TEST(all->batcher().submit({&plain, 1}));
    all.reset();
    job->wait();
    BOOST_TEST(job->logits.size() == 2U);
    while (facts->alive > 0) {  // or hangs
      std::this_thread::yield();
    }
  }
}

BOOST_AUTO_TEST_CASE(a_real_bundle_answers_as_its_engine) {
  const char* folder = std::getenv("ATB_TEST_BUNDLE");
  if (folder == nullptr) {
    BOOST_TEST_MESSAGE("ATB_TEST_BUNDLE names no bundle");
    return;
  }
  ModelOptions options;
  options.batcher.workers = 2;
  const auto all = Model::load(folder, options);
  BOOST_TEST_MESSAGE(all->describe());
  const auto read = Bundle::read(folder);
  std::vector<std::unique_ptr<Session>> alone;
  std::vector<std::size_t> lengths;
  std::vector<std::shared_ptr<const Engine>> engines;
  for (const auto& of : read.choose("", &can_run)) {
    engines.push_back(open_engine(of, 1));
    alone.push_back(engines.back()->session());
    lengths.push_back(of.target.length);
  }
  const auto want = [&](const Encoding& row) {
    const auto at = std::lower_bound(lengths.begin(), lengths.end(), row.size()) - lengths.begin();
    const std::size_t length = lengths[static_cast<std::size_t>(at)];
    Session& session = *alone[static_cast<std::size_t>(at)];
    const Inputs inputs = session.inputs(1, length);
    const auto put = [&](std::span<std::int64_t> out, const auto& value) {
      for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = value(i);
      }
    };
    put(inputs.ids, [&](std::size_t i) { return i < row.size() ? row.ids[i] : all->tokenizer().pad_id(); });
    put(inputs.mask, [&](std::size_t i) { return i < row.size() ? 1 : 0; });
    put(inputs.types, [&](std::size_t i) { return i < row.size() ? row.types[i] : 0; });
    const auto logits = session.run();
    return std::vector<float>(logits.begin(), logits.end());
  };
  int wrong = 0;
  std::set<std::size_t> batches;
  for (std::uint32_t round = 0; round < 40; ++round) {
    std::vector<std::shared_ptr<Asked>> asked;
    for (std::uint32_t i = 0; i < 1 + round % 24; ++i) {
      asked.push_back(ask(*all, encoding(1 + (round * 31 + i * 17) % all->max_length(), round * 100 + i)));
    }
    for (const auto& job : asked) {
      job->wait();
      wrong += job->logits.empty() || !same_bits(job->logits, want(job->tokens));
      batches.insert(job->run.batch);
    }
  }
  BOOST_TEST(wrong == 0);
  BOOST_TEST_MESSAGE("batches of " << batches.size() << " sizes");
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
