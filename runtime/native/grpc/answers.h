// What all calls of the service share.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "errands.h"
#include "server/front.h"

namespace atb::rpc {

/// A refusal in gRPC's words; long ones are cut, for they travel in a trailer of limited size.
grpc::Status refusal(Kind kind, std::string message);

grpc::Status unauthenticated();

/// A model that answers, as requests name it.
struct Found {
  std::shared_ptr<Model> model;
  std::string version;
  ModelMetrics* metrics = nullptr;
};

/// What outlives every call.
class Shared {
 public:
  Shared(Registry& models, const ServerOptions& limits, Metrics& counts, const std::atomic<bool>& ending)
      : registry(models), options(limits), metrics(counts), stopping(ending) {}

  /// Of a name and version, empty for the highest. Throws as `Registry::find` does.
  Found find(const std::string& name, const std::string& version);
  /// Whether the call carries the token, where one is asked for.
  [[nodiscard]] bool admits(const grpc::CallbackServerContext& context) const;

  Registry& registry;
  const ServerOptions& options;
  Metrics& metrics;
  const std::atomic<bool>& stopping;
  std::atomic<bool> asked = false;  // whether any client was ever here
  Errands readers;                  // of requests too large to read where connections are served
  Errands managers;                 // of models that load or unload

 private:
  struct Known {  // what was found last time, which the registry tells only of all models at once
    std::weak_ptr<Model> model;
    std::string version;
    ModelMetrics* metrics;
  };
  std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, Known> known_;
};

}  // namespace atb::rpc
