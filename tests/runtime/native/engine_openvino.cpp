// Engines: what they compute, what they refuse, and that sessions do not disturb each other.
#define BOOST_TEST_MODULE engine
#include <boost/test/included/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <openvino/openvino.hpp>
#include <openvino/opsets/opset13.hpp>
#include <thread>
#include <vector>

#include "atb/engine.h"
#include "atb/error.h"
#include "scratch.h"

namespace fs = std::filesystem;
namespace op = ov::opset13;

namespace {

constexpr std::size_t kWords = 20, kLabels = 3;

float weight(std::size_t word, std::size_t label) { return std::sin(static_cast<float>(word * kLabels + label + 1)); }

/// logits = sum over tokens of mask * table[id], of any [batch, length].
std::shared_ptr<ov::Model> bag(const char* ids_name = "input_ids", ov::element::Type type = ov::element::i64) {
  const auto input = [&](const char* name) {
    auto made = std::make_shared<op::Parameter>(type, ov::PartialShape{-1, -1});
    made->set_friendly_name(name);
    made->output(0).set_names({name});
    return made;
  };
  std::vector<float> table;
  for (std::size_t i = 0; i < kWords * kLabels; ++i) table.push_back(weight(i / kLabels, i % kLabels));
  const auto ids = input(ids_name), mask = input("attention_mask");
  const auto words = std::make_shared<op::Gather>(op::Constant::create(ov::element::f32, {kWords, kLabels}, table), ids,
                                                  op::Constant::create(ov::element::i64, {}, {0}));
  const auto counted = std::make_shared<op::Unsqueeze>(std::make_shared<op::Convert>(mask, ov::element::f32),
                                                       op::Constant::create(ov::element::i64, {1}, {2}));
  const auto sum = std::make_shared<op::ReduceSum>(std::make_shared<op::Multiply>(words, counted),
                                                   op::Constant::create(ov::element::i64, {1}, {1}));
  sum->output(0).set_names({"logits"});
  const auto result = std::make_shared<op::Result>(sum);
  result->set_friendly_name("logits/sink_port_0");
  return std::make_shared<ov::Model>(ov::ResultVector{result}, ov::ParameterVector{ids, mask});
}

/// An IR in a folder of its own.
struct Saved {
  atb::test::Scratch scratch;
  const fs::path& folder = scratch.path();
  atb::EngineEntry entry;

  explicit Saved(const std::shared_ptr<ov::Model>& model = bag()) {
    entry.artifact = folder / "model.xml";
    entry.target = {.backend = "openvino",
                    .device = "CPU",
                    .precision = "f32",
                    .batch = 1,
                    .length = 8,
                    .threads = 1,
                    .dynamic = false};
    entry.effective_precision = "f32";
    ov::save_model(model, entry.artifact.string(), false);
  }
};

/// What is wrong with the answers of rows of random words; nothing where they are right. Any thread may ask: Boost's
/// own checks are for one.
std::string wrong(atb::Session& session, std::size_t batch, std::size_t length, unsigned seed) {
  const atb::Inputs rows = session.inputs(batch, length);
  if (rows.ids.size() != batch * length || rows.mask.size() != batch * length || !rows.types.empty())
    return "inputs of another size than asked";
  std::vector<float> wanted(batch * kLabels, 0);
  for (std::size_t i = 0; i < batch * length; ++i) {
    seed = seed * 1664525U + 1013904223U;
    const std::size_t word = (seed >> 8) % kWords;
    rows.ids[i] = static_cast<std::int64_t>(word);
    rows.mask[i] = (seed >> 4) % 2;
    for (std::size_t label = 0; label < kLabels && rows.mask[i] == 1; ++label)
      wanted[i / length * kLabels + label] += weight(word, label);
  }
  const auto logits = session.run();
  if (logits.size() != wanted.size()) return std::to_string(logits.size()) + " logits";
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (std::abs(logits[i] - wanted[i]) > 1e-4F)
      return "logit " + std::to_string(i) + " is " + std::to_string(logits[i]) + ", not " + std::to_string(wanted[i]);
  return {};
}

std::string refusal(const atb::EngineEntry& entry, std::size_t batch = 0) {
  try {
    (void)atb::open_engine(entry, batch);
    return {};
  } catch (const atb::Error& error) {
    BOOST_TEST((error.kind() == atb::Kind::bundle));
    return error.what();
  }
}

bool says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  BOOST_TEST_MESSAGE("'" << part << "' is not in: " << text);
  return false;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_engine_computes_what_its_model_says) {
  const Saved saved;
  const auto engine = atb::open_engine(saved.entry);
  BOOST_TEST(engine->target().label() == "openvino-CPU-f32-b1-l8-t1");
  BOOST_TEST(engine->effective_precision() == "f32");
  BOOST_TEST(engine->labels() == kLabels);
  const auto session = engine->session();
  for (unsigned seed = 0; seed < 20; ++seed) BOOST_TEST(wrong(*session, 1, 8, seed) == "");
  BOOST_CHECK_THROW(session->inputs(1, 7), atb::Error);
  BOOST_CHECK_THROW(session->inputs(2, 8), atb::Error);
}

BOOST_AUTO_TEST_CASE(buffers_are_bound_once) {
  const Saved saved;
  const auto session = atb::open_engine(saved.entry)->session();  // which outlives its engine
  const auto* ids = session->inputs(1, 8).ids.data();
  BOOST_TEST(wrong(*session, 1, 8, 1) == "");
  const auto* logits = session->run().data();
  BOOST_TEST(wrong(*session, 1, 8, 2) == "");
  BOOST_TEST(session->inputs(1, 8).ids.data() == ids);
  BOOST_TEST(session->run().data() == logits);
}

BOOST_AUTO_TEST_CASE(other_batches_can_be_compiled) {
  const Saved saved;
  const auto engine = atb::open_engine(saved.entry, 4);
  BOOST_TEST(engine->target().batch == 4U);
  BOOST_TEST(wrong(*engine->session(), 4, 8, 3) == "");
}

BOOST_AUTO_TEST_CASE(a_dynamic_engine_takes_any_shape_up_to_its_own) {
  Saved saved;
  saved.entry.target.dynamic = true;
  saved.entry.target.batch = 3;
  const auto session = atb::open_engine(saved.entry)->session();
  for (const std::size_t batch : {1U, 3U, 2U})
    for (const std::size_t length : {8U, 1U, 5U}) BOOST_TEST(wrong(*session, batch, length, 4) == "");
  BOOST_CHECK_THROW(session->inputs(4, 8), atb::Error);
  BOOST_CHECK_THROW(session->inputs(1, 9), atb::Error);
  BOOST_CHECK_THROW(session->inputs(0, 8), atb::Error);
}

BOOST_AUTO_TEST_CASE(sessions_do_not_disturb_each_other) {
  const Saved saved;
  for (const unsigned at_once : {1U, 3U}) {
    const auto engine = atb::open_engine(saved.entry, 0, at_once);
    std::vector<std::thread> threads;
    std::vector<std::string> found(3);
    for (unsigned t = 0; t < 3; ++t)
      threads.emplace_back([&, t] {
        const auto session = engine->session();
        for (unsigned i = 0; i < 200 && found[t].empty(); ++i) found[t] = wrong(*session, 1, 8, 100 * t + i);
      });
    for (auto& thread : threads) thread.join();
    for (const std::string& x : found) BOOST_TEST(x == "");
  }
}

BOOST_AUTO_TEST_CASE(what_a_target_asks_for_is_there_or_refused) {
  Saved saved;
  atb::EngineEntry entry = saved.entry;
  BOOST_TEST(atb::can_run(entry.target));
  entry.target.threads = 100'000;
  BOOST_TEST(!atb::can_run(entry.target));
  BOOST_TEST(says(refusal(entry), "100000 threads"));
  entry = saved.entry;
  entry.target.device = "NPU9";
  BOOST_TEST(!atb::can_run(entry.target));
  BOOST_TEST(says(refusal(entry), "no device NPU9"));
  entry = saved.entry;
  entry.target.backend = "abacus";
  BOOST_TEST(!atb::can_run(entry.target));
  BOOST_TEST(says(refusal(entry), "built without abacus; it has openvino"));
  entry = saved.entry;
  entry.target.precision = "int8";
  BOOST_TEST(says(refusal(entry), "carries no QuantizeLinear"));
  entry = saved.entry;
  entry.effective_precision = "bf16";
  BOOST_TEST(says(refusal(entry), "computes in f32 here, the bundle says bf16"));
  entry = saved.entry;
  entry.artifact = saved.folder / "other.xml";
  BOOST_TEST(says(refusal(entry), "cannot read it"));
}

BOOST_AUTO_TEST_CASE(models_that_texts_cannot_fill_are_refused) {
  BOOST_TEST(says(refusal(Saved(bag("pixels")).entry), "takes pixels"));
  BOOST_TEST(says(refusal(Saved(bag("input_ids", ov::element::i32)).entry), "is i32, tokens are i64"));
  const auto fixed = bag();
  fixed->reshape({{"input_ids", ov::PartialShape{2, 8}}, {"attention_mask", ov::PartialShape{2, 8}}});
  BOOST_TEST(says(refusal(Saved(fixed).entry), "the model fixes"));
  const auto other = bag();
  other->output(0).set_names({"answer"});
  other->get_results()[0]->set_friendly_name("answer");
  BOOST_TEST(says(refusal(Saved(other).entry), "no output logits"));
}
