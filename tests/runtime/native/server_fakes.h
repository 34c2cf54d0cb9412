// A model without a bundle: a small vocabulary, and an engine that computes what a test can compute too.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "atb/registry.h"

namespace atb {

inline std::ostream& boost_test_print_type(std::ostream& out, Kind kind) { return out << static_cast<int>(kind); }

}  // namespace atb

namespace atb::test {

using namespace std::chrono_literals;

/// What engines do beside computing.
struct Behaviour {
  std::atomic<bool> held = false;  // runs wait until it is false again
  std::atomic<int> runs = 0;
  std::chrono::microseconds takes{0};
};

inline constexpr std::size_t fake_labels = 3;

inline std::vector<float> logits_of(const std::int64_t* ids, std::size_t count) {
  std::vector<float> logits(fake_labels);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t label = 0; label < fake_labels; ++label) {
      logits[label] += static_cast<float>((ids[i] * 7 + static_cast<std::int64_t>(i + 3 * label)) % 11) / 7.0F - 0.6F;
    }
  }
  return logits;
}

class FakeSession final : public Session {
 public:
  explicit FakeSession(std::shared_ptr<Behaviour> behaviour) : behaviour_(std::move(behaviour)) {}
  Inputs inputs(std::size_t batch, std::size_t length) override {
    length_ = length;
    ids_.assign(batch * length, 0);
    mask_.assign(batch * length, 0);
    return {ids_, mask_, {}};
  }
  std::span<const float> run() override {
    ++behaviour_->runs;
    while (behaviour_->held) {
      std::this_thread::sleep_for(1ms);
    }
    std::this_thread::sleep_for(behaviour_->takes);
    logits_.clear();
    for (std::size_t row = 0; row < ids_.size() / length_; ++row) {
      std::size_t count = 0;
      while (count < length_ && mask_[row * length_ + count] == 1) {
        ++count;
      }
      const auto logits = logits_of(&ids_[row * length_], count);
      logits_.insert(logits_.end(), logits.begin(), logits.end());
    }
    return logits_;
  }

 private:
  std::shared_ptr<Behaviour> behaviour_;
  std::size_t length_ = 1;
  std::vector<std::int64_t> ids_, mask_;
  std::vector<float> logits_;
};

class FakeEngine final : public Engine {
 public:
  FakeEngine(Target target, std::shared_ptr<Behaviour> behaviour)
      : target_(std::move(target)), behaviour_(std::move(behaviour)) {}
  [[nodiscard]] const Target& target() const override { return target_; }
  [[nodiscard]] std::string effective_precision() const override { return "f32"; }
  [[nodiscard]] std::size_t labels() const override { return fake_labels; }
  [[nodiscard]] std::unique_ptr<Session> session() const override { return std::make_unique<FakeSession>(behaviour_); }

 private:
  Target target_;
  std::shared_ptr<Behaviour> behaviour_;
};

/// Letters, and letters inside words: "ab" is a ##b.
inline Tokenizer small_tokenizer() {
  std::string vocabulary = R"("[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3)";
  int id = 4;
  for (const char* prefix : {"", "##"}) {
    for (char letter = 'a'; letter <= 'z'; ++letter) {
      vocabulary += std::string(",\"") + prefix + letter + "\":" + std::to_string(id++);
    }
  }
  const auto special = [](int number, const char* content) {
    return R"({"id":)" + std::to_string(number) + R"(,"content":")" + content +
           R"(","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
  };
  return Tokenizer::from_json(
      R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)" + special(0, "[PAD]") + "," +
      special(1, "[UNK]") + "," + special(2, "[CLS]") + "," + special(3, "[SEP]") +
      R"(],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,)"
      R"("lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"TemplateProcessing",)"
      R"("single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},)"
      R"({"SpecialToken":{"id":"[SEP]","type_id":0}}],"pair":[{"SpecialToken":{"id":"[CLS]","type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[SEP]","type_id":0}},)"
      R"({"Sequence":{"id":"B","type_id":1}},{"SpecialToken":{"id":"[SEP]","type_id":1}}],"special_tokens":{)"
      R"("[CLS]":{"id":"[CLS]","ids":[2],"tokens":["[CLS]"]},"[SEP]":{"id":"[SEP]","ids":[3],"tokens":["[SEP]"]}}},)"
      R"("decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]",)"
      R"("continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{)" +
      vocabulary + "}}}");
}

struct FakeOptions {
  std::size_t queue = 512;
  unsigned workers = 1;
};

inline std::shared_ptr<Model> fake_model(const std::shared_ptr<Behaviour>& behaviour, FakeOptions how = {}) {
  Bundle bundle;
  bundle.name = "fake";
  bundle.sha256 = std::string(64, '0');
  bundle.labels = {"bad", "fair", "good"};
  bundle.max_length = 16;
  for (const std::size_t length : {8, 16}) {
    EngineEntry entry;
    entry.target = {.backend = "openvino", .device = "CPU", .precision = "f32", .length = length};
    entry.effective_precision = "f32";
    bundle.engines.push_back(entry);
  }
  ModelOptions options;
  options.rows = {1};
  options.batcher.workers = how.workers;
  options.batcher.queue = how.queue;
  options.batcher.pin = false;
  const auto entries = bundle.engines;
  const auto open = [behaviour](const EngineEntry& entry, std::size_t batch, unsigned) {
    Target target = entry.target;
    target.batch = batch == 0 ? 1 : batch;
    return std::make_shared<const FakeEngine>(target, behaviour);
  };
  return Model::make(std::move(bundle), small_tokenizer(), entries, open, options);
}

}  // namespace atb::test
