// A small tokenizer, and engines whose answers follow from their rows.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "atb/model.h"

namespace atb::test {

inline constexpr std::size_t kWords = 40;  // of the vocabulary, special tokens included

inline Tokenizer tokenizer() {
  std::string vocabulary;
  const std::vector<std::string> special{"[PAD]", "[UNK]", "[CLS]", "[SEP]"};
  for (std::size_t i = 0; i < kWords; ++i) {
    vocabulary +=
        (i == 0 ? "\"" : ", \"") + (i < 4 ? special[i] : "w" + std::to_string(i)) + "\": " + std::to_string(i);
  }
  const auto token = [](int id, const char* text) {
    return R"({"id": )" + std::to_string(id) + R"(, "content": ")" + text +
           R"(", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})";
  };
  return Tokenizer::from_json(R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)" +
                              token(0, "[PAD]") + ", " + token(1, "[UNK]") + ", " + token(2, "[CLS]") + ", " +
                              token(3, "[SEP]") + R"(],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                 "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                       "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {)" +
                              vocabulary + "}}}");
}

/// What a fake engine costs and gets wrong, and what became of it.
struct Facts {
  std::function<std::chrono::microseconds(std::size_t rows)> cost = [](std::size_t) {
    return std::chrono::microseconds(0);
  };
  std::size_t labels = 2;
  float salt = 0;                      // another model's weights
  std::set<std::size_t> inexact;       // numbers of rows at which the last row's bits differ
  std::set<std::size_t> compiles_not;  // numbers of rows
  std::int32_t poison = -1;            // a first token that is answered by NaN
  std::int32_t bomb = -1;              // a first token that throws
  std::atomic<int> alive = 0;          // engines
  std::mutex mutex;
  std::set<std::thread::id> ended_on;                    // threads that destroyed an engine
  std::set<std::pair<std::size_t, std::size_t>> opened;  // rows, length
};

/// Deterministic, and different for every row, length of engine and label.
inline float fake_logit(const Facts& facts, const std::int64_t* ids, const std::int64_t* types, std::size_t used,
                        std::size_t length, std::size_t label) {
  std::uint32_t state = static_cast<std::uint32_t>(length * 31 + label + 1);
  for (std::size_t i = 0; i < used; ++i) {
    state = state * 1664525U + static_cast<std::uint32_t>(ids[i] * 7 + types[i]) + 1013904223U;
  }
  return static_cast<float>(state >> 8U) / 1e6F + facts.salt;
}

class FakeSession : public Session {
 public:
  FakeSession(std::shared_ptr<Facts> facts, const Target& target) : facts_(std::move(facts)), target_(target) {}

  Inputs inputs(std::size_t batch, std::size_t length) override {
    if (target_.dynamic ? batch > target_.batch || length > target_.length || length == 0
                        : batch != target_.batch || length != target_.length) {
      throw Error(Kind::internal, "a shape it was not made for");
    }
    batch_ = batch;
    length_ = length;
    for (auto* all : {&ids_, &mask_, &types_}) {
      all->assign(batch * length, -1);
    }
    return {.ids = ids_, .mask = mask_, .types = types_};
  }

  std::span<const float> run() override {
    const auto until = Clock::now() + facts_->cost(batch_);
    logits_.clear();
    for (std::size_t row = 0; row < batch_; ++row) {
      const auto at = static_cast<std::ptrdiff_t>(row * length_);
      const auto used = static_cast<std::size_t>(
          std::count(mask_.begin() + at, mask_.begin() + at + static_cast<std::ptrdiff_t>(length_), 1));
      for (std::size_t label = 0; label < facts_->labels; ++label) {
        float value = fake_logit(*facts_, &ids_[row * length_], &types_[row * length_], used, length_, label);
        if (row + 1 == batch_ && facts_->inexact.contains(batch_)) {
          value = std::nextafter(value, 1e30F);
        }
        if (ids_[row * length_] == facts_->poison) {
          value = std::numeric_limits<float>::quiet_NaN();
        }
        if (ids_[row * length_] == facts_->bomb) {
          throw Error(Kind::internal, "the engine failed");
        }
        logits_.push_back(value);
      }
    }
    while (Clock::now() < until) {
    }
    return logits_;
  }

 private:
  std::shared_ptr<Facts> facts_;
  Target target_;
  std::size_t batch_ = 0, length_ = 0;
  std::vector<std::int64_t> ids_, mask_, types_;
  std::vector<float> logits_;
};

class FakeEngine : public Engine {
 public:
  FakeEngine(std::shared_ptr<Facts> facts, Target target) : facts_(std::move(facts)), target_(std::move(target)) {
    ++facts_->alive;
  }
  ~FakeEngine() override {
    {
      const std::lock_guard lock(facts_->mutex);
      facts_->ended_on.insert(std::this_thread::get_id());
    }
    --facts_->alive;
  }
  [[nodiscard]] const Target& target() const override { return target_; }
  [[nodiscard]] std::string effective_precision() const override { return "f32"; }
  [[nodiscard]] std::size_t labels() const override { return facts_->labels; }
  [[nodiscard]] std::unique_ptr<Session> session() const override {
    return std::make_unique<FakeSession>(facts_, target_);
  }

 private:
  std::shared_ptr<Facts> facts_;
  Target target_;
};

inline Model::Opener opener(const std::shared_ptr<Facts>& facts) {
  return [facts](const EngineEntry& entry, std::size_t rows, unsigned /*at_once*/) {
    Target target = entry.target;
    target.batch = rows == 0 ? target.batch : rows;
    if (facts->compiles_not.contains(target.batch)) {
      throw Error(Kind::bundle, "it does not compile for these rows");
    }
    const std::lock_guard lock(facts->mutex);
    facts->opened.emplace(target.batch, target.length);
    return std::make_shared<FakeEngine>(facts, target);
  };
}

inline EngineEntry entry(std::size_t length, std::size_t batch = 1, bool dynamic = false) {
  Target target;
  target.backend = "fake";
  target.device = "CPU";
  target.precision = "f32";
  target.batch = batch;
  target.length = length;
  target.dynamic = dynamic;
  return {target, {}, "f32"};
}

inline Bundle bundle(const Facts& facts = {}) {
  Bundle bundle;
  bundle.name = "fake";
  bundle.max_length = 512;
  for (std::size_t i = 0; i < facts.labels; ++i) {
    bundle.labels.push_back("label" + std::to_string(i));
  }
  return bundle;
}

inline std::shared_ptr<Model> model(const std::shared_ptr<Facts>& facts,
                                    const std::vector<EngineEntry>& entries = {entry(16), entry(32), entry(64)},
                                    const ModelOptions& options = {}) {
  return Model::make(bundle(*facts), tokenizer(), entries, opener(facts), options);
}

inline Encoding encoding(std::size_t size, std::uint32_t seed = 1) {
  Encoding tokens;
  for (std::size_t i = 0; i < size; ++i) {
    seed = seed * 1664525U + 1013904223U;
    tokens.ids.push_back(static_cast<std::int32_t>(4 + (seed >> 16U) % (kWords - 4)));
    tokens.types.push_back(static_cast<std::uint8_t>(i * 2 > size ? 1 : 0));
  }
  return tokens;
}

/// What an engine of this length says of the row alone.
inline std::vector<float> expected(const Facts& facts, const Encoding& tokens, std::size_t length) {
  const std::vector<std::int64_t> ids(tokens.ids.begin(), tokens.ids.end());
  const std::vector<std::int64_t> types(tokens.types.begin(), tokens.types.end());
  std::vector<float> logits;
  for (std::size_t label = 0; label < facts.labels; ++label) {
    logits.push_back(fake_logit(facts, ids.data(), types.data(), ids.size(), length, label));
  }
  return logits;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
  });
}

/// Keeps its answer.
class Asked : public Job {
 public:
  explicit Asked(Encoding row) { tokens = std::move(row); }
  std::vector<float> logits;
  Run run;
  Kind why = Kind::internal;
  std::atomic<int> calls = 0;
  std::shared_ptr<void> holds;

  void answered(std::span<const float> values, const Run& how) noexcept override {
    logits.assign(values.begin(), values.end());
    run = how;
    over();
  }
  void refused(Kind kind) noexcept override {
    why = kind;
    over();
  }
  void wait() const {
    while (calls == 0) {
      calls.wait(0);
    }
  }

 private:
  void over() {
    holds.reset();
    ++calls;
    calls.notify_all();
  }
};

inline std::shared_ptr<Asked> ask(Model& model, Encoding row) {
  auto job = std::make_shared<Asked>(std::move(row));
  const std::shared_ptr<Job> plain = job;
  if (!model.batcher().submit({&plain, 1})) {
    job->refused(Kind::overloaded);
  }
  return job;
}

}  // namespace atb::test
