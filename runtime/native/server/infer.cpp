#include "infer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace atb {

/// Lives inside its request: the batcher's pointers to it are pointers to the request.
class Inference::Row final : public Job {
 public:
  Inference* request = nullptr;
  std::size_t index = 0;
  Run run{};

  void answered(std::span<const float> logits, const Run& how) noexcept override {
    run = how;
    const bool sound = logits.size() == request->labels_ &&
                       std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
    if (sound) {
      std::copy(logits.begin(), logits.end(),
                request->logits_.begin() + static_cast<std::ptrdiff_t>(index * request->labels_));
      request->finished();
    } else {
      refused(Kind::internal);
    }
  }

  void refused(Kind why) noexcept override {
    int none = -1;
    if (request->refused_.compare_exchange_strong(none, static_cast<int>(why))) {
      request->abandon();
    }
    request->finished();
  }
};

Inference::Inference(std::shared_ptr<Model> model, std::size_t rows)
    : model_(std::move(model)),
      rows_(rows),
      labels_(model_->bundle().labels.size()),
      row_(std::make_unique<Row[]>(rows)),
      logits_(rows * labels_) {
  for (std::size_t i = 0; i < rows; ++i) {
    row_[i].request = this;
    row_[i].index = i;
  }
}

Inference::~Inference() = default;

Encoding& Inference::tokens(std::size_t row) noexcept { return row_[row].tokens; }

void Inference::start(Clock::time_point deadline, Done done, bool helper) {
  done_ = std::move(done);
  // One more than there are rows: `done` is not called, nor this request changed, before `submit` has returned.
  remaining_.store(rows_ + 1, std::memory_order_relaxed);
  thread_local std::vector<std::shared_ptr<Job>> jobs;
  const auto self = shared_from_this();
  for (std::size_t i = 0; i < rows_; ++i) {
    row_[i].deadline = deadline;
    jobs.emplace_back(self, &row_[i]);
  }
  Batcher& batcher = model_->batcher();
  const bool taken = helper ? batcher.submit_and_help(jobs) : batcher.submit(jobs);
  jobs.clear();
  if (!taken) {
    refused_.store(static_cast<int>(Kind::overloaded));
    remaining_.store(1, std::memory_order_relaxed);
  }
  finished();
}

void Inference::abandon() noexcept {
  for (std::size_t i = 0; i < rows_; ++i) {
    row_[i].abandoned.store(true, std::memory_order_relaxed);
  }
}

void Inference::finished() noexcept {
  if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    Done done = std::move(done_);
    done(*this);
  }
}

std::optional<Kind> Inference::refused() const noexcept {
  const int why = refused_.load(std::memory_order_acquire);
  return why < 0 ? std::nullopt : std::optional<Kind>(static_cast<Kind>(why));
}

std::span<const float> Inference::logits(std::size_t row) const noexcept {
  return std::span<const float>(logits_).subspan(row * labels_, labels_);
}

std::chrono::nanoseconds Inference::queue_time() const noexcept {
  auto first = Clock::duration::max();
  for (std::size_t i = 0; i < rows_; ++i) {
    first = std::min(first, row_[i].run.begun - row_[i].run.queued);
  }
  return std::max(first, Clock::duration::zero());
}

std::chrono::nanoseconds Inference::engine_time() const noexcept {
  auto begun = Clock::time_point::max();
  auto ended = Clock::time_point::min();
  for (std::size_t i = 0; i < rows_; ++i) {
    begun = std::min(begun, row_[i].run.begun);
    ended = std::max(ended, row_[i].run.ended);
  }
  return ended - begun;
}

std::size_t Inference::batch() const noexcept { return row_[rows_ - 1].run.batch; }

Score best(const Model& model, std::span<const float> logits) {
  thread_local std::vector<Score> scores;
  model.scores(logits, scores);
  return scores.front();
}

std::string explain(Kind kind, const Model& model) {
  const std::string& name = model.bundle().name;
  switch (kind) {
    case Kind::overloaded:
      return "the queue of " + name + " has no room for this request; try again after Retry-After seconds";
    case Kind::expired:
      return "no answer before the request's deadline; ask for a longer one, or for fewer rows at once";
    case Kind::cancelled:
      return "the client has gone";
    case Kind::unavailable:
      return name + " is stopping; try again";
    default:
      return "the engine of " + name + " failed; the server's operator finds more in its log";
  }
}

long retry_after(Model& model) noexcept {
  return std::max<long>(1, std::chrono::ceil<std::chrono::seconds>(model.batcher().backlog()).count());
}

}  // namespace atb
