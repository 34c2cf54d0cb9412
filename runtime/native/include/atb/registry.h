// The models of a server, by name and version.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "atb/model.h"

namespace atb {

/// Thread-safe. Who holds a model keeps it: unloading or replacing one takes it out of the registry, and it stops when
/// its last request was answered, on a thread of the registry's own.
class Registry {
 public:
  struct Entry {
    std::string name;
    std::string version;
    std::shared_ptr<Model> model;  // null while it loads, after it failed or was unloaded
    std::string reason;            // why it is not ready, or why it was not replaced
  };
  using Loader = std::function<std::shared_ptr<Model>(const std::filesystem::path&, const ModelOptions&)>;

  explicit Registry(Loader loader = &Model::load);
  ~Registry();  // a model that somebody holds lives on with him
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  /// Where a model's bundles are: `folder` is a bundle, or holds bundles in folders named by version ("1", "2").
  /// Loads nothing. Throws `Error(Kind::invalid)` for a name that is taken or no name.
  void add(const std::string& name, const std::filesystem::path& folder, const ModelOptions& options);
  /// Loads or reloads all versions of a name on the calling thread; the old ones answer until all the new are ready,
  /// and stay where one fails. Throws `Error`.
  void load(const std::string& name);
  void unload(const std::string& name);
  /// The version, or the highest where empty. Throws `Error(Kind::not_found)` or `Error(Kind::unavailable)`.
  [[nodiscard]] std::shared_ptr<Model> find(const std::string& name, const std::string& version = "") const;
  [[nodiscard]] std::vector<Entry> entries() const;
  [[nodiscard]] bool ready() const;  // every model that was added and not unloaded
  /// Answers what waits in every model; false where `until` came first.
  bool drain(Clock::time_point until);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace atb
