// One request for answers, whatever protocol carried it: rows of tokens in, logits out.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "atb/model.h"

namespace atb {

/// Where the time of a request went. What did not happen took none.
struct Timing {
  std::chrono::nanoseconds tokenise{}, queue{}, engine{}, total{};
};

/// A request under way. Make it, fill `tokens(i)`, `start` it; the answer is in it when `done` is called.
///
///     auto work = std::make_shared<Inference>(model, texts.size());
///     for (...) tokenizer.encode(texts[i], model->max_length(), work->tokens(i));
///     work->start(deadline, [](Inference& w) { if (!w.refused()) use(w.logits()); });
class Inference : public std::enable_shared_from_this<Inference> {
 public:
  /// Called exactly once: on a worker's thread, or within `start`. Must not throw.
  using Done = std::function<void(Inference&)>;

  Inference(std::shared_ptr<Model> model, std::size_t rows);
  ~Inference();

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] Encoding& tokens(std::size_t row) noexcept;
  [[nodiscard]] Model& model() const noexcept { return *model_; }

  /// Queues all rows or refuses all of them. A `helper` asks by `Batcher::submit_and_help`, and then helps. A row that
  /// is refused later refuses the request, and abandons the others.
  void start(Clock::time_point deadline, Done done, bool helper = false);
  /// Nobody waits for the answer any more: rows that have not begun are not computed. From any thread; `done` is still
  /// called.
  void abandon() noexcept;

  // All below: once `done` was called.
  [[nodiscard]] std::optional<Kind> refused() const noexcept;
  [[nodiscard]] std::span<const float> logits() const noexcept { return logits_; }  // [rows, labels]
  [[nodiscard]] std::span<const float> logits(std::size_t row) const noexcept;
  [[nodiscard]] std::chrono::nanoseconds queue_time() const noexcept;   // until its first row began
  [[nodiscard]] std::chrono::nanoseconds engine_time() const noexcept;  // from there to the end of its last
  [[nodiscard]] std::size_t batch() const noexcept;                     // rows of the engine that answered its last row

 private:
  class Row;
  void finished() noexcept;

  std::shared_ptr<Model> model_;
  std::size_t rows_;
  std::size_t labels_;
  std::unique_ptr<Row[]> row_;
  std::vector<float> logits_;
  std::atomic<std::size_t> remaining_{0};
  std::atomic<int> refused_{-1};  // a Kind; the first counts
  Done done_;
};

/// The best label of a row and its score.
Score best(const Model& model, std::span<const float> logits);
/// What a refusal says to its client, and how to do better.
std::string explain(Kind kind, const Model& model);
/// Whole seconds until the queue has room: what `Retry-After` says. At least 1.
long retry_after(Model& model) noexcept;

}  // namespace atb
