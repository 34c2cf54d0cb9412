// Models by name and version, replaced while they answer.
#include <boost/test/unit_test.hpp>
#include <fstream>
#include <optional>

#include "atb/registry.h"
#include "batcher_fakes.h"
#include "model_fakes.h"
#include "scratch.h"

namespace atb::test {
namespace {

namespace fs = std::filesystem;

/// Folders that look like bundles, and a loader that makes fakes of them.
class Shelf {
 public:
  void put(const fs::path& name) {
    fs::create_directories(folder / name);
    std::ofstream(folder / name / "manifest.json") << "{}";
  }
  Registry::Loader loader() {
    return [this](const fs::path& of, const ModelOptions& options) {
      ++loads;
      if (broken && of.filename() == *broken) {
        throw Error(Kind::bundle, "it is broken");
      }
      return model(facts, {entry(16), entry(32)}, options);
    };
  }

  Scratch scratch;
  const fs::path& folder = scratch.path();
  std::shared_ptr<Facts> facts = std::make_shared<Facts>();
  std::atomic<int> loads = 0;
  std::optional<std::string> broken;
};

ModelOptions small() {
  ModelOptions options;
  options.rows = {2};
  options.batcher.workers = 1;
  return options;
}

template <class Call>
std::pair<Kind, std::string> error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {Kind::internal, "nothing was thrown"};
}

BOOST_AUTO_TEST_SUITE(registry)

BOOST_AUTO_TEST_CASE(names_and_versions) {
  Shelf shelf;
  shelf.put("plain");
  for (const char* version : {"1", "2", "10", "draft", "03"}) {
    shelf.put(fs::path("many") / version);
  }
  Registry all(shelf.loader());
  BOOST_TEST(all.ready());
  all.add("plain", shelf.folder / "plain", small());
  all.add("many", shelf.folder / "many", small());
  BOOST_TEST(!all.ready());
  BOOST_TEST(error_of([&] { static_cast<void>(all.find("plain")); }).first == Kind::unavailable);
  BOOST_TEST(error_of([&] { static_cast<void>(all.find("other")); }).first == Kind::not_found);
  all.load("plain");
  BOOST_TEST(!all.ready());
  all.load("many");
  BOOST_TEST(all.ready());
  BOOST_TEST(all.find("plain").get() == all.find("plain", "1").get());
  BOOST_TEST(all.find("many").get() == all.find("many", "10").get());
  BOOST_TEST(all.find("many", "2").get() != all.find("many", "1").get());
  const auto missing = error_of([&] { static_cast<void>(all.find("many", "3")); });
  BOOST_TEST(missing.first == Kind::not_found);
  BOOST_TEST(missing.second.find("it has 1, 2, 10") != std::string::npos);
  std::vector<std::string> listed;
  for (const auto& entry : all.entries()) {
    listed.push_back(entry.name + "/" + entry.version);
    BOOST_TEST(entry.model);
    BOOST_TEST(entry.reason == "");
  }
  BOOST_TEST(listed == (std::vector<std::string>{"many/1", "many/2", "many/10", "plain/1"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_named_or_found_is_refused) {
  Shelf shelf;
  shelf.put("a");
  fs::create_directories(shelf.folder / "empty");
  Registry all(shelf.loader());
  for (const char* name : {"", "a/b", "..", "a b", "\xff"}) {
    BOOST_TEST(error_of([&] { all.add(name, shelf.folder / "a", small()); }).first == Kind::invalid);
  }
  all.add("a", shelf.folder / "a", small());
  BOOST_TEST(error_of([&] { all.add("a", shelf.folder / "a", small()); }).first == Kind::invalid);
  all.add("empty", shelf.folder / "empty", small());
  all.add("nowhere", shelf.folder / "nowhere", small());
  BOOST_TEST(error_of([&] { all.load("empty"); }).first == Kind::bundle);
  BOOST_TEST(error_of([&] { all.load("nowhere"); }).first == Kind::bundle);
  BOOST_TEST(error_of([&] { all.load("unknown"); }).first == Kind::not_found);
  BOOST_TEST(error_of([&] { all.unload("unknown"); }).first == Kind::not_found);
  BOOST_TEST(!all.ready());
}

BOOST_AUTO_TEST_CASE(a_load_that_fails_keeps_the_old_and_tells_why) {
  Shelf shelf;
  shelf.put("m/1");
  shelf.put("m/2");
  Registry all(shelf.loader());
  all.add("m", shelf.folder / "m", small());
  shelf.broken = "2";
  BOOST_TEST(error_of([&] { all.load("m"); }).second == "version 2 of m: it is broken");
  BOOST_TEST(!all.ready());
  BOOST_TEST(all.entries().front().reason == "version 2 of m: it is broken");
  BOOST_TEST(error_of([&] { static_cast<void>(all.find("m")); }).second ==
             "the model m is not ready: version 2 of m: it is broken");
  shelf.broken.reset();
  all.load("m");
  const auto old = all.find("m", "2");
  shelf.broken = "1";
  BOOST_TEST(error_of([&] { all.load("m"); }).first == Kind::bundle);
  BOOST_TEST(all.find("m", "2").get() == old.get());
  BOOST_TEST(all.ready());
  BOOST_TEST(all.entries().front().reason == "version 1 of m: it is broken");
  shelf.broken.reset();
  all.load("m");
  BOOST_TEST(all.find("m", "2").get() != old.get());
  BOOST_TEST(all.entries().front().reason == "");
}

BOOST_AUTO_TEST_CASE(unloaded_it_answers_who_holds_it_and_ends_elsewhere) {
  Shelf shelf;
  shelf.put("m");
  Registry all(shelf.loader());
  all.add("m", shelf.folder / "m", small());
  all.load("m");
  auto held = all.find("m");
  shelf.facts->ended_on.clear();
  all.unload("m");
  BOOST_TEST(error_of([&] { static_cast<void>(all.find("m")); }).second == "the model m is not ready: it was unloaded");
  BOOST_TEST(all.ready());  // nobody wants it
  const auto job = ask(*held, encoding(4));
  job->wait();
  BOOST_TEST(job->logits.size() == 2U);
  BOOST_TEST(shelf.facts->alive > 0);
  held.reset();
  while (shelf.facts->alive > 0) {  // or hangs
    std::this_thread::yield();
  }
  BOOST_TEST(!shelf.facts->ended_on.contains(std::this_thread::get_id()));
  all.load("m");
  BOOST_TEST(all.find("m")->max_length() == 32U);
}

BOOST_AUTO_TEST_CASE(who_holds_a_model_keeps_it_beyond_the_registry) {
  Shelf shelf;
  shelf.put("m");
  std::shared_ptr<Model> held, retired;
  {
    Registry all(shelf.loader());
    all.add("m", shelf.folder / "m", small());
    all.load("m");
    retired = all.find("m");
    all.load("m");
    held = all.find("m");
  }
  for (const auto& one : {held, retired}) {
    const auto job = ask(*one, encoding(4));
    job->wait();
    BOOST_TEST(job->logits.size() == 2U);
  }
  held.reset();
  retired.reset();
  BOOST_TEST(shelf.facts->alive == 0);
}

BOOST_AUTO_TEST_CASE(replaced_under_load_no_request_is_lost_or_wrong) {
  Shelf shelf;
  shelf.put("m/1");
  shelf.put("m/2");
  Registry all(shelf.loader());
  ModelOptions options = small();
  options.batcher.workers = 2;
  options.batcher.queue = 100'000;
  all.add("m", shelf.folder / "m", options);
  all.load("m");
  std::atomic<bool> over = false;
  std::atomic<int> wrong = 0, answered = 0;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::set<std::thread::id> clients;
  for (std::uint32_t thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      {
        const std::lock_guard lock(mutex);
        clients.insert(std::this_thread::get_id());
      }
      for (std::uint32_t round = 0; !over; ++round) {
        std::vector<std::shared_ptr<Asked>> asked;
        for (std::uint32_t i = 0; i < 1 + round % 5; ++i) {
          const auto found = all.find("m", i % 2 == 0 ? "" : "1");
          auto job = std::make_shared<Asked>(encoding(1 + (round + i * 7) % 32, thread + round));
          job->holds = found;  // as a request does
          const std::shared_ptr<Job> plain = job;
          wrong += !found->batcher().submit({&plain, 1});
          asked.push_back(std::move(job));
        }
        for (const auto& job : asked) {
          job->wait();
          const std::size_t length = job->tokens.size() <= 16 ? 16 : 32;
          wrong += job->logits.empty() || !same_bits(job->logits, expected(*shelf.facts, job->tokens, length));
          ++answered;
        }
      }
    });
  }
  for (int i = 0; i < 6; ++i) {
    all.load("m");
    shelf.broken = i % 2 == 0 ? std::optional<std::string>("2") : std::nullopt;
    if (shelf.broken) {
      BOOST_CHECK_THROW(all.load("m"), Error);
      shelf.broken.reset();
    }
  }
  over = true;
  for (auto& thread : threads) {
    thread.join();
  }
  BOOST_TEST(wrong == 0);
  BOOST_TEST(answered > 0);
  BOOST_TEST(all.drain(Clock::now() + 60s));
  const std::lock_guard lock(shelf.facts->mutex);
  for (const auto& client : clients) {
    BOOST_TEST(!shelf.facts->ended_on.contains(client));
  }
}

BOOST_AUTO_TEST_CASE(drained_models_take_nothing_new) {
  Shelf shelf;
  shelf.put("m");
  Registry all(shelf.loader());
  all.add("m", shelf.folder / "m", small());
  all.load("m");
  const auto one = all.find("m");
  BOOST_TEST(all.drain(Clock::now() + 60s));
  const auto job = ask(*one, encoding(4));
  job->wait();
  BOOST_TEST(job->why == Kind::unavailable);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
