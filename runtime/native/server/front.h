// What the HTTP server and another protocol beside it share.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "atb/server.h"
#include "metrics.h"

namespace atb {

inline constexpr std::string_view version = "0.1.0";

/// Another protocol in the same process.
class Front {
 public:
  virtual ~Front() = default;
  [[nodiscard]] virtual std::uint16_t port() const noexcept = 0;
  /// Takes no new requests, answers what it has; false where `until` came first. Called once, after `stopping` was set.
  virtual bool drain(Clock::time_point until) = 0;
};

/// Defined by the gRPC part where it is built (`ATB_WITH_GRPC`). Binds and serves at once; throws `Error` where it
/// cannot bind. Ready is `!stopping && registry.ready()`. All references outlive it.
std::unique_ptr<Front> open_grpc(Registry& registry, const ServerOptions& options, Metrics& metrics,
                                 const std::atomic<bool>& stopping);

/// Compares in a time that tells nothing of `expected` but its length.
bool same_secret(std::string_view given, std::string_view expected) noexcept;

}  // namespace atb
