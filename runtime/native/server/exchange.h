// One request and its answer, between the connection that carries them and the service that answers.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "infer.h"
#include "metrics.h"
#include "protocol_oip.h"

namespace atb {

struct HttpRequest {
  enum class Method : std::uint8_t { get, head, post, other };
  Method method = Method::other;
  bool http10 = false;
  bool keep_alive = false;
  bool encoded = false;                              // a Content-Encoding that we do not read
  bool repeated = false;                             // a field twice that must be there once
  std::optional<std::size_t> json_bytes;             // Inference-Header-Content-Length
  std::optional<std::chrono::milliseconds> timeout;  // X-Request-Timeout-Ms
  std::string verb, target, host, origin, authorization;
  std::string body;
  void clear();  // keeps its memory, unless it is much
};

struct HttpResponse {
  unsigned status = 200;
  std::string_view type = "application/json";
  std::string fields;  // further lines of the header, each with its end
  std::string body;
  void clear();
};

/// Reused for every request of its connection. Belongs to one event loop: all but `post` is called there.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  virtual ~Exchange() = default;

  HttpRequest request;
  HttpResponse response;

  // What the answer to a model's request needs.
  bool predict = false;  // TEI's shape instead of OIP's
  bool batch = false, raw_scores = false;
  oip::Reply reply;
  std::shared_ptr<Model> model;
  ModelMetrics* metrics = nullptr;  // of that model
  std::shared_ptr<Inference> work;  // from `start` to the answer; replaced or empty: its answer comes too late
  bool away = false;                // another thread reads the request
  bool gone = false;                // so has its client

  Clock::time_point received{};  // whole
  Clock::time_point deadline = Clock::time_point::max();
  Timing timing;
  std::optional<Kind> refused;

  /// Sends `response`. Once for each request.
  virtual void respond() = 0;
  /// Runs on the exchange's loop, at once where that is the calling thread.
  virtual void post(std::function<void()> task) = 0;

  /// Forgets the last request.
  void renew();
};

}  // namespace atb
