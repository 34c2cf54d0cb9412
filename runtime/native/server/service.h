// What each path answers. Knows requests and models, nothing of sockets.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "access_log.h"
#include "atb/server.h"
#include "exchange.h"
#include "front.h"
#include "metrics.h"
#include "path.h"

namespace atb {

/// What all loops of a server share.
struct Shared {
  Shared(Registry& the_registry, const ServerOptions& the_options) : registry(the_registry), options(the_options) {}

  Registry& registry;
  const ServerOptions& options;
  Metrics metrics;
  std::atomic<bool> stopping{false};
  std::atomic<std::size_t> body_bytes{0};  // of all requests that are being received or answered
  std::atomic<std::size_t> under_way{0};   // answers that a model owes us
  std::unique_ptr<AccessLog> log;
  boost::asio::thread_pool readers{1};   // of requests too large to read on a loop
  boost::asio::thread_pool managers{1};  // of models that load or unload

  [[nodiscard]] bool ready() const { return !stopping && registry.ready(); }
};

/// One for each loop, and used on it.
class Service {
 public:
  Service(Shared& shared, boost::asio::io_context& io) : shared_(shared), io_(io) {}

  /// Answers the exchange, at once or later.
  void handle(Exchange& exchange);
  /// Whether to receive the body of a request whose header is there; where not, the exchange was answered.
  bool admit(Exchange& exchange);
  /// Answers with an error; also in the place of a request that never became whole.
  void refuse(Exchange& exchange, Kind why, std::string_view message, long retry_s = 1);
  /// An error of HTTP, which is no `Kind`.
  void refuse(Exchange& exchange, unsigned status, std::string_view name, std::string_view message,
              std::string_view field = "");
  /// Its deadline has passed, or its client has gone: the work is abandoned. Not while the exchange is `away`.
  void expire(Exchange& exchange);
  void abandon(Exchange& exchange);

  /// Computes a batch of what waits for this thread; whether there is more.
  bool help();

  static constexpr std::size_t inline_bytes = 32 * 1024;  // of a body; larger ones are read by another thread

 private:
  struct Known {  // a model by the name and version of requests, as it was when last seen
    std::weak_ptr<Model> model;
    std::string version;
    ModelMetrics* metrics = nullptr;
  };

  void route(Exchange& exchange);
  void route_model(Exchange& exchange);
  void route_repository(Exchange& exchange);
  bool get(Exchange& exchange);   // refuses other methods
  bool post(Exchange& exchange);  // likewise
  void find(Exchange& exchange, const std::string& name, const std::string& version);
  [[nodiscard]] std::string sole_model() const;
  void manage(Exchange& exchange);

  void infer(Exchange& exchange);
  void read(Exchange& exchange) const;
  void start(Exchange& exchange);
  void finish(Exchange& exchange, const std::shared_ptr<Inference>& work);
  void help_later();

  Shared& shared_;
  boost::asio::io_context& io_;
  std::deque<std::shared_ptr<Model>> waiting_;  // for this thread's help
  Clock::time_point helped_{};                  // when it ended last
  bool full_ = false;                           // a queue was, since then
  Path path_;                                   // of the request at hand
  std::map<std::string, Known> known_;
  std::string key_;
};

}  // namespace atb
