#include "atb/model.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "atb/machine.h"
#include "lane.h"

namespace atb {
namespace {

bool are_numbers(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
}

/// A session of every engine. Of one thread at a time.
class Desk {
 public:
  Desk(const std::vector<Lane>& lanes, bool one_row_only) {
    for (const Lane& lane : lanes) {
      auto& sessions = sessions_.emplace_back();
      for (const Lane::Size& size : lane.sizes()) {
        if (sessions.empty() || !one_row_only) {
          sessions.push_back(size.engine->session());
        }
      }
    }
  }

  [[nodiscard]] Session& session(std::size_t lane, std::size_t size) noexcept { return *sessions_[lane][size]; }
  std::vector<char> sound;  // of the rows of a batch

 private:
  std::vector<std::vector<std::unique_ptr<Session>>> sessions_;
};

}  // namespace

struct Model::Impl final : Runner {
  Impl(Bundle the_bundle, Tokenizer the_tokenizer, const std::vector<EngineEntry>& entries, const Opener& open,
       const ModelOptions& options);

  Bundle bundle;
  Tokenizer tokenizer;
  Vocabulary vocabulary;
  std::size_t max_length = 0;
  std::vector<Lane> lanes;  // shortest first
  std::vector<std::size_t> all_lengths;
  std::vector<Desk> desks;                   // of each worker
  std::mutex mutex;                          // of `spare`
  std::vector<std::unique_ptr<Desk>> spare;  // of threads that ask without the batcher
  std::optional<Batcher> batcher;            // the last: it ends before what it runs on

  [[nodiscard]] std::size_t lane_of(std::size_t tokens) const noexcept {
    const auto at = std::lower_bound(all_lengths.begin(), all_lengths.end(), tokens);
    return static_cast<std::size_t>(at - all_lengths.begin());
  }
  void started(unsigned worker) noexcept override;
  void run(unsigned worker, std::size_t length, std::span<const std::shared_ptr<Job>> jobs) noexcept override;
  [[nodiscard]] std::span<const std::size_t> lengths() const noexcept override { return all_lengths; }
  [[nodiscard]] std::size_t rows(std::size_t length) const noexcept override { return lanes[lane_of(length)].most(); }

  void batch(Desk& desk, std::size_t lane, std::size_t step, std::span<const std::shared_ptr<Job>> jobs) noexcept;
};

Model::Impl::Impl(Bundle the_bundle, Tokenizer the_tokenizer, const std::vector<EngineEntry>& entries,
                  const Opener& open, const ModelOptions& options)
    : bundle(std::move(the_bundle)), tokenizer(std::move(the_tokenizer)) {
  vocabulary = {.pad = tokenizer.pad_id(), .size = tokenizer.vocabulary_size()};
  BatcherOptions how = options.batcher;
  how.workers = how.workers != 0 ? how.workers : usable_cpus();
  const std::vector<std::size_t> rows = options.rows.empty() ? std::vector<std::size_t>{2, 4, 8} : options.rows;
  for (const EngineEntry& entry : entries) {
    lanes.emplace_back(entry, rows, open, how.workers, vocabulary);
    if (const std::size_t labels = lanes.back().sizes().front().engine->labels(); labels != bundle.labels.size()) {
      throw Error(Kind::bundle, entry.target.label() + " answers " + std::to_string(labels) + " values, the bundle " +
                                    bundle.name + " names " + std::to_string(bundle.labels.size()) + " labels");
    }
  }
  std::sort(lanes.begin(), lanes.end(), [](const Lane& a, const Lane& b) { return a.length() < b.length(); });
  for (const Lane& lane : lanes) {
    if (!all_lengths.empty() && all_lengths.back() == lane.length()) {
      throw Error(Kind::bundle, "one engine for each length is needed, the bundle " + bundle.name +
                                    " has several of length " + std::to_string(lane.length()));
    }
    all_lengths.push_back(lane.length());
  }
  if (lanes.empty()) {
    throw Error(Kind::bundle, "the bundle " + bundle.name + " has no engine for this machine");
  }
  max_length = std::min(all_lengths.back(), bundle.max_length);
  try {
    Encoding empty;
    tokenizer.encode("", "", max_length, empty);
  } catch (const Error& error) {
    throw Error(Kind::bundle, "no pair of texts fits into " + std::to_string(max_length) + " tokens, the most that " +
                                  bundle.name + " takes: " + error.what());
  }
  for (unsigned i = 0; i < how.workers; ++i) {
    desks.emplace_back(lanes, false);
  }
  batcher.emplace(*this, how);
}

/// Runs each engine on the very thread that will use it: some keep buffers by thread.
void Model::Impl::started(unsigned worker) noexcept {
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    for (std::size_t size = 0; size < lanes[lane].sizes().size(); ++size) {
      const Encoding row = std::move(probes(1, lanes[lane].length(), vocabulary).front());
      const std::size_t count = lanes[lane].sizes()[size].rows;
      try {
        Session& session = desks[worker].session(lane, size);
        const Inputs inputs = session.inputs(count, lanes[lane].length());
        for (std::size_t i = 0; i < count; ++i) {
          fill(inputs, i, lanes[lane].length(), row, vocabulary);
        }
        session.run();
      } catch (const Error&) {  // NOLINT: it answered the probes before; if it fails again, a request is told so
      }
    }
  }
}

void Model::Impl::run(unsigned worker, std::size_t length, std::span<const std::shared_ptr<Job>> jobs) noexcept {
  const std::size_t lane = lane_of(length);
  while (!jobs.empty()) {
    const std::size_t step = lanes[lane].step(jobs.size());
    const std::size_t count = std::min(jobs.size(), lanes[lane].sizes()[step].rows);
    batch(desks[worker], lane, step, jobs.first(count));
    jobs = jobs.subspan(count);
  }
}

void Model::Impl::batch(Desk& desk, std::size_t lane, std::size_t step,
                        std::span<const std::shared_ptr<Job>> jobs) noexcept {
  const Lane::Size& size = lanes[lane].sizes()[step];
  Run run;
  run.batch = size.rows;
  run.length = lanes[lane].padded(jobs.front()->tokens);  // a dynamic engine has one row
  std::span<const float> logits;
  try {
    run.begun = Clock::now();
    Session& session = desk.session(lane, step);
    const Inputs inputs = session.inputs(size.rows, run.length);
    desk.sound.resize(size.rows);
    for (std::size_t i = 0; i < size.rows; ++i) {
      desk.sound[i] = fill(inputs, i, run.length, jobs[std::min(i, jobs.size() - 1)]->tokens, vocabulary) ? 1 : 0;
    }
    logits = session.run();
    run.ended = Clock::now();
  } catch (const std::exception&) {
    for (const auto& job : jobs) {
      job->refused(Kind::internal);
    }
    return;
  }
  const std::size_t labels = bundle.labels.size();
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const auto row = logits.subspan(i * labels, labels);
    if (desk.sound[i] == 0) {
      jobs[i]->refused(Kind::invalid);
    } else if (!are_numbers(row)) {
      jobs[i]->refused(Kind::internal);
    } else {
      run.queued = jobs[i]->queued;
      jobs[i]->answered(row, run);
    }
  }
}

// ---- the model

std::shared_ptr<Model> Model::load(const std::filesystem::path& folder, const ModelOptions& options) {
  Bundle bundle = Bundle::read(folder);
  const auto entries = bundle.choose(options.engine, &can_run);
  Tokenizer tokenizer = Tokenizer::from_file(bundle.tokenizer);
  return make(std::move(bundle), std::move(tokenizer), entries, &open_engine, options);
}

std::shared_ptr<Model> Model::make(Bundle bundle, Tokenizer tokenizer, const std::vector<EngineEntry>& entries,
                                   const Opener& open, const ModelOptions& options) {
  auto impl = std::make_unique<Impl>(std::move(bundle), std::move(tokenizer), entries, open, options);
  // The last to hold a model may be one of its own jobs: its worker cannot wait for its own end.
  const auto end = [](Model* model) {
    if (model->batcher().mine()) {
      std::thread([model] { delete model; }).detach();
    } else {
      delete model;
    }
  };
  return {new Model(std::move(impl)), end};
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const Bundle& Model::bundle() const noexcept { return impl_->bundle; }
const Tokenizer& Model::tokenizer() const noexcept { return impl_->tokenizer; }
Batcher& Model::batcher() noexcept { return *impl_->batcher; }
std::size_t Model::max_length() const noexcept { return impl_->max_length; }

std::string Model::describe() const {
  nlohmann::ordered_json engines = nlohmann::ordered_json::array();
  for (const Lane& lane : impl_->lanes) {
    const Engine& engine = *lane.sizes().front().engine;
    nlohmann::ordered_json sizes = nlohmann::ordered_json::array();
    for (const Lane::Size& size : lane.sizes()) {
      sizes.push_back({{"rows", size.rows}, {"us", std::round(size.us * 10) / 10}});
    }
    engines.push_back({{"backend", engine.target().backend},
                       {"device", engine.target().device},
                       {"precision", engine.effective_precision()},
                       {"length", lane.length()},
                       {"dynamic", lane.dynamic()},
                       {"threads", engine.target().threads},
                       {"batches", sizes}});
  }
  return nlohmann::ordered_json{{"workers", impl_->batcher->workers()}, {"engines", engines}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void Model::scores(std::span<const float> logits, std::vector<Score>& out) const {
  const auto& labels = impl_->bundle.labels;
  if (logits.size() != labels.size()) {
    throw Error(Kind::internal, "the engine answers " + std::to_string(logits.size()) + " values for " +
                                    std::to_string(labels.size()) + " labels");
  }
  if (!are_numbers(logits)) {
    throw Error(Kind::internal, "the engine of " + impl_->bundle.name + " answers logits that are no numbers");
  }
  out.clear();
  double sum = 0;
  const double most = *std::max_element(logits.begin(), logits.end());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double value = logits[i];
    const bool classify = impl_->bundle.task == Task::classification;
    const Score score{labels[i], classify ? std::exp(value - most) : value};
    sum += score.score;
    out.push_back(score);
  }
  if (impl_->bundle.task == Task::classification) {
    for (Score& score : out) {
      score.score /= sum;
    }
  }
  // Best first; equal ones stay as they are. By insertion, for it needs no memory.
  for (auto at = out.begin(); at != out.end(); ++at) {
    const auto place =
        std::upper_bound(out.begin(), at, *at, [](const Score& a, const Score& b) { return a.score > b.score; });
    std::rotate(place, at, at + 1);
  }
}

std::vector<float> Model::logits(const Encoding& tokens) {
  Impl& impl = *impl_;
  const std::size_t lane = impl.lane_of(tokens.size());
  if (lane == impl.lanes.size()) {
    throw Error(Kind::invalid, "a row has at most " + std::to_string(impl.all_lengths.back()) + " tokens, got " +
                                   std::to_string(tokens.size()));
  }
  std::unique_ptr<Desk> desk;
  {
    const std::lock_guard lock(impl.mutex);
    if (!impl.spare.empty()) {
      desk = std::move(impl.spare.back());
      impl.spare.pop_back();
    }
  }
  if (!desk) {
    desk = std::make_unique<Desk>(impl.lanes, true);
  }
  const std::size_t length = impl.lanes[lane].padded(tokens);
  const std::size_t rows = impl.lanes[lane].sizes().front().rows;
  std::vector<float> out;
  const Inputs inputs = desk->session(lane, 0).inputs(rows, length);
  bool sound = true;
  for (std::size_t i = 0; i < rows; ++i) {
    sound = fill(inputs, i, length, tokens, impl.vocabulary);
  }
  if (sound) {
    const auto logits = desk->session(lane, 0).run();
    out.assign(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(impl.bundle.labels.size()));
  }
  {
    const std::lock_guard lock(impl.mutex);
    impl.spare.push_back(std::move(desk));
  }
  if (!sound) {
    throw Error(Kind::invalid, "a row has 1 token or more, each with an id below " +
                                   std::to_string(impl.vocabulary.size) + " and a type of 0 or 1");
  }
  if (!are_numbers(out)) {
    throw Error(Kind::internal, "the engine of " + impl.bundle.name + " answers logits that are no numbers");
  }
  return out;
}

}  // namespace atb
