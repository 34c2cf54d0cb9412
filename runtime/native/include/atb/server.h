// A server of models over HTTP and, where built with it, gRPC.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "atb/registry.h"

namespace atb {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;  // 0: any free one
  int grpc_port = -1;         // -1: none
  unsigned loops = 1;         // event loops, a thread each: one is enough where the models take most of the time
  // How long a loop looks for the next request before it sleeps, where none is under way: waking up takes longer than
  // a client that has its answer takes to send again.
  std::chrono::microseconds spin{20};
  std::size_t connections = 4096;
  std::size_t header_bytes = 16 * 1024;
  std::size_t body_bytes = 4 * 1024 * 1024;
  std::size_t text_bytes = 256 * 1024;
  std::size_t rows = 256;                     // texts of one request
  std::chrono::milliseconds idle{60'000};     // between requests of a connection
  std::chrono::milliseconds receive{10'000};  // for a whole request to arrive
  std::chrono::milliseconds deadline{1'000};  // for an answer, unless the request asks for less
  std::chrono::milliseconds drain{10'000};    // after SIGTERM
  std::string token{};                        // of "Authorization: Bearer"; empty: none is asked for
  std::string certificate{}, key{};           // PEM files; empty: no TLS
  bool manage = false;                        // whether clients may load and unload
  bool page = false;                          // the example page at /
  std::string access_log{};                   // a file, "-" for stdout; empty: none
};

class Server {
 public:
  /// Binds at once; throws `Error` where it cannot.
  Server(Registry& registry, const ServerOptions& options);
  ~Server();
  [[nodiscard]] std::uint16_t port() const noexcept;
  [[nodiscard]] std::uint16_t grpc_port() const noexcept;
  /// Serves until `stop` was called and what was accepted is answered; false where the drain ran out of time.
  bool run();
  /// Ready turns false, then no new connections, then drain. From any thread or signal handler.
  void stop() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace atb
