#include "atb/registry.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace atb {
namespace {

namespace fs = std::filesystem;

constexpr const char* manifest_file = "manifest.json";
constexpr std::chrono::milliseconds retire_every{20};

/// Version folders in the order of their numbers.
struct ByNumber {
  bool operator()(const std::string& a, const std::string& b) const noexcept {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  }
};

bool is_version(const std::string& name) {
  return !name.empty() && name.size() <= 18 && name.front() != '0' &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_name(const std::string& name) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !name.empty() && name.size() <= 128 && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(), fits);
}

using Folders = std::map<std::string, fs::path, ByNumber>;

Folders versions_of(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / manifest_file, error)) {
    return {{"1", folder}};
  }
  Folders found;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (const std::string name = at->path().filename().string();
        is_version(name) && fs::exists(at->path() / manifest_file, error)) {
      found.emplace(name, at->path());
    }
  }
  if (error) {
    throw Error(Kind::bundle, folder.string() + " cannot be read: " + error.message());
  }
  if (found.empty()) {
    throw Error(Kind::bundle, folder.string() + " is neither a bundle (a folder with " + manifest_file +
                                  ") nor holds bundles in folders named 1, 2, ...");
  }
  return found;
}

}  // namespace

struct Registry::Impl {
  using Models = std::map<std::string, std::shared_ptr<Model>, ByNumber>;
  struct Source {
    fs::path folder;
    ModelOptions options;
    bool wanted = true;  // not unloaded
    Models models{};
    std::string reason = "it was not loaded yet";
  };

  Loader loader;
  std::mutex loading;        // one at a time: it takes all cores
  mutable std::mutex mutex;  // of all below
  std::map<std::string, Source> sources;

  // The registry lets go of a model when nobody else holds it. So it never ends on a thread that has others to serve.
  std::vector<std::shared_ptr<Model>> retired;
  bool ending = false;
  std::condition_variable changed;
  std::thread retirer;

  /// Under `mutex`.
  void retire(Models models) {
    for (auto& [version, model] : models) {
      retired.push_back(std::move(model));
    }
    changed.notify_one();
  }

  void let_go();
  Models load_all(const std::string& name, const Source& source);
};

void Registry::Impl::let_go() {
  std::unique_lock lock(mutex);
  while (!ending || !retired.empty()) {
    if (retired.empty()) {
      changed.wait(lock);
      continue;
    }
    // Nobody can find a retired model any more: who is alone with it stays alone.
    const auto held = [this](const auto& model) { return !ending && model.use_count() > 1; };
    const auto free = std::stable_partition(retired.begin(), retired.end(), held);
    std::vector<std::shared_ptr<Model>> ended(std::make_move_iterator(free), std::make_move_iterator(retired.end()));
    retired.erase(free, retired.end());
    lock.unlock();
    ended.clear();
    lock.lock();
    if (!retired.empty()) {
      changed.wait_for(lock, retire_every);
    }
  }
}

Registry::Impl::Models Registry::Impl::load_all(const std::string& name, const Source& source) {
  Models models;
  for (const auto& [version, folder] : versions_of(source.folder)) {
    try {
      models[version] = loader(folder, source.options);
    } catch (const Error& error) {
      throw Error(error.kind(), "version " + version + " of " + name + ": " + error.what());
    } catch (const std::exception& error) {
      throw Error(Kind::internal, "version " + version + " of " + name + ": " + error.what());
    }
  }
  return models;
}

Registry::Registry(Loader loader) : impl_(std::make_unique<Impl>()) {
  impl_->loader = std::move(loader);
  impl_->retirer = std::thread([impl = impl_.get()] { impl->let_go(); });
}

Registry::~Registry() {
  {
    const std::lock_guard lock(impl_->mutex);
    for (auto& [name, source] : impl_->sources) {
      impl_->retire(std::exchange(source.models, {}));
    }
    impl_->ending = true;
    impl_->changed.notify_one();
  }
  impl_->retirer.join();
}

void Registry::add(const std::string& name, const fs::path& folder, const ModelOptions& options) {
  if (!is_name(name)) {
    throw Error(Kind::invalid, "a model's name is 1 to 128 letters, digits, '-', '_' and '.', got '" + name + "'");
  }
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->sources.emplace(name, Impl::Source{folder, options}).second) {
    throw Error(Kind::invalid, "there is a model " + name + " already, from " +
                                   impl_->sources.at(name).folder.string() + "; give each a name of its own");
  }
}

void Registry::load(const std::string& name) {
  const std::lock_guard one(impl_->loading);
  Impl::Source source;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto found = impl_->sources.find(name);
    if (found == impl_->sources.end()) {
      throw Error(Kind::not_found, "there is no model " + name);
    }
    found->second.wanted = true;
    if (found->second.models.empty()) {
      found->second.reason = "it is loading";
    }
    source.folder = found->second.folder;
    source.options = found->second.options;
  }
  Impl::Models models;
  try {
    models = impl_->load_all(name, source);
  } catch (const Error& error) {
    const std::lock_guard lock(impl_->mutex);
    impl_->sources.at(name).reason = error.what();
    throw;
  }
  const std::lock_guard lock(impl_->mutex);
  Impl::Source& kept = impl_->sources.at(name);
  kept.reason.clear();
  impl_->retire(std::exchange(kept.models, std::move(models)));
}

void Registry::unload(const std::string& name) {
  const std::lock_guard one(impl_->loading);
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->sources.find(name);
  if (found == impl_->sources.end()) {
    throw Error(Kind::not_found, "there is no model " + name);
  }
  found->second.wanted = false;
  found->second.reason = "it was unloaded";
  impl_->retire(std::exchange(found->second.models, {}));
}

std::shared_ptr<Model> Registry::find(const std::string& name, const std::string& version) const {
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->sources.find(name);
  if (found == impl_->sources.end()) {
    throw Error(Kind::not_found, "there is no model " + name);
  }
  const auto& [folder, options, wanted, models, reason] = found->second;
  if (models.empty()) {
    throw Error(Kind::unavailable, "the model " + name + " is not ready: " + reason);
  }
  if (version.empty()) {
    return models.rbegin()->second;
  }
  const auto model = models.find(version);
  if (model == models.end()) {
    std::string have;
    for (const auto& [number, other] : models) {
      have += (have.empty() ? "" : ", ") + number;
    }
    throw Error(Kind::not_found, "the model " + name + " has no version " + version + "; it has " + have);
  }
  return model->second;
}

std::vector<Registry::Entry> Registry::entries() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<Entry> entries;
  for (const auto& [name, source] : impl_->sources) {
    if (source.models.empty()) {
      entries.push_back({name, "", nullptr, source.reason});
    }
    for (const auto& [version, model] : source.models) {
      entries.push_back({name, version, model, source.reason});
    }
  }
  return entries;
}

bool Registry::ready() const {
  const std::lock_guard lock(impl_->mutex);
  return std::all_of(impl_->sources.begin(), impl_->sources.end(),
                     [](const auto& item) { return !item.second.wanted || !item.second.models.empty(); });
}

bool Registry::drain(Clock::time_point until) {
  std::vector<std::shared_ptr<Model>> models;
  {
    const std::lock_guard lock(impl_->mutex);
    models = impl_->retired;  // requests may still be with them
    for (const auto& [name, source] : impl_->sources) {
      for (const auto& [version, model] : source.models) {
        models.push_back(model);
      }
    }
  }
  bool all = true;
  for (const auto& model : models) {
    all = model->batcher().drain(until) && all;
  }
  return all;
}

}  // namespace atb
