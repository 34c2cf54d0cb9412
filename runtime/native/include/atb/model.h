// A bundle that answers: tokenizer, engines of every length, batcher.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atb/batcher.h"
#include "atb/bundle.h"
#include "atb/engine.h"
#include "atb/tokenizer.h"

namespace atb {

struct ModelOptions {
  std::string engine;             // a label, a group or a backend; by default the first that runs here
  std::vector<std::size_t> rows;  // batch sizes to compile beside the bundle's; by default 2, 4, 8
  BatcherOptions batcher;
};

struct Score {
  std::string_view label;  // lives as long as the model
  double score;            // a probability; of a regression the value
};

class Model {
 public:
  /// Checks the bundle, compiles every shape and warms it up: ready when it returns.
  ///
  /// A batch size is used where it answers probe rows bit for bit as one row alone, and answers them faster. Of a
  /// dynamic engine each row is a batch of its own, as long as it is. May be let go of on any thread.
  static std::shared_ptr<Model> load(const std::filesystem::path& folder, const ModelOptions& options);

  /// `open_engine`, or one of the caller's.
  using Opener = std::function<std::shared_ptr<const Engine>(const EngineEntry&, std::size_t batch, unsigned at_once)>;
  /// `load` of what is read already, with `entries` of the bundle that differ in length only.
  static std::shared_ptr<Model> make(Bundle bundle, Tokenizer tokenizer, const std::vector<EngineEntry>& entries,
                                     const Opener& open, const ModelOptions& options);
  ~Model();

  [[nodiscard]] const Bundle& bundle() const noexcept;
  [[nodiscard]] const Tokenizer& tokenizer() const noexcept;
  [[nodiscard]] Batcher& batcher() noexcept;
  [[nodiscard]] std::size_t max_length() const noexcept;  // tokens: longer texts are cut
  [[nodiscard]] std::string describe() const;             // the engines that answer, as JSON

  /// Softmax for classification, best first, equal ones in the order of the labels: as
  /// `runtime.classifier.Classifier` computes it. Throws `Error(Kind::internal)` for logits that are no numbers.
  void scores(std::span<const float> logits, std::vector<Score>& out) const;
  /// One answer on the calling thread, without batcher or queue: float32 [labels]. Throws `Error(Kind::invalid)` for
  /// tokens that are not of the vocabulary, none or too many, `Error(Kind::internal)` where the engine fails.
  std::vector<float> logits(const Encoding& tokens);

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atb
