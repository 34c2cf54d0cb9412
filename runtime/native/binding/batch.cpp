#include "binding/batch.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "atb/error.h"

namespace atb {
namespace {

constexpr std::size_t kChunk = 128;  // texts that wait at once: enough to fill batches, few enough to leave room

void tokenise(const Model& model, const TextOrPair& text, Encoding& out) {
  if (text.pair)
    model.tokenizer().encode(text.first, text.second, model.max_length(), out);
  else
    model.tokenizer().encode(text.first, model.max_length(), out);
}

/// Counts what is under way; the last one wakes who waits.
class Pending {
 public:
  void add(std::size_t count) {
    const std::scoped_lock lock(mutex_);
    left_ += count;
  }
  void done(std::optional<Kind> why) noexcept {
    const std::scoped_lock lock(mutex_);
    if (why) failed_ = why;
    if (--left_ == 0) empty_.notify_all();
  }
  /// Why one of them was refused, if one was.
  std::optional<Kind> wait() {
    std::unique_lock lock(mutex_);
    empty_.wait(lock, [&] { return left_ == 0; });
    return failed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable empty_;
  std::size_t left_ = 0;
  std::optional<Kind> failed_;
};

class Row : public Job {
 public:
  Row(std::shared_ptr<Pending> pending, std::span<float> out) : pending_(std::move(pending)), out_(out) {}
  void answered(std::span<const float> logits, const Run& /*run*/) noexcept override {
    std::ranges::copy(logits, out_.begin());
    pending_->done({});
  }
  void refused(Kind why) noexcept override { pending_->done(why); }

 private:
  std::shared_ptr<Pending> pending_;
  std::span<float> out_;
};

}  // namespace

std::vector<float> answer(Model& model, std::span<const TextOrPair> texts) {
  const std::size_t labels = model.bundle().labels.size();
  if (texts.size() == 1) {  // on this very thread: no change of threads for one text
    Encoding tokens;
    tokenise(model, texts[0], tokens);
    return model.logits(tokens);
  }
  std::vector<float> logits(texts.size() * labels);
  const auto pending = std::make_shared<Pending>();
  std::optional<Kind> failed;
  for (std::size_t start = 0; start < texts.size() && !failed; start += kChunk) {
    const std::size_t count = std::min(kChunk, texts.size() - start);
    std::vector<std::shared_ptr<Job>> jobs;
    for (std::size_t i = start; i < start + count; ++i) {
      auto row = std::make_shared<Row>(pending, std::span(logits).subspan(i * labels, labels));
      tokenise(model, texts[i], row->tokens);  // while the workers compute the chunk before
      jobs.push_back(std::move(row));
    }
    failed = pending->wait();
    if (failed) break;
    pending->add(count);
    while (!model.batcher().submit(jobs))
      std::this_thread::sleep_for(std::max(model.batcher().backlog(), std::chrono::microseconds(100)));
  }
  if (!failed) failed = pending->wait();
  if (failed)
    throw Error(*failed, *failed == Kind::unavailable ? "the classifier is closed"
                                                      : "an engine of " + model.bundle().name + " failed");
  return logits;
}

}  // namespace atb
