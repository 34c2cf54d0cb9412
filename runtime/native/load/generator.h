// Sends requests over keep-alive connections from one thread, and counts what comes back.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "load/histogram.h"
#include "load/requests.h"

namespace atb::load {

struct Plan {
  std::string host = "127.0.0.1";
  std::string port = "8000";
  unsigned connections = 1;
  double rate_per_s = 0;                // 0: closed loop, every connection sends when it was answered
  std::chrono::nanoseconds warm_up{0};  // before anything is counted
  std::chrono::nanoseconds duration{0};
  std::chrono::nanoseconds timeout{10'000'000'000};  // of one request, from its sending
  std::chrono::nanoseconds patience{1'000'000'000};  // after the end, for what is still on its way
  std::uint64_t seed = 0;                            // of the arrivals
  bool spin = false;                                 // never sleep: what waking up costs is then in no latency
};

struct Errors {
  std::uint64_t connect = 0;  // refused, or not accepted in time
  std::uint64_t reset = 0;    // closed before the answer was whole
  std::uint64_t timeout = 0;
  std::uint64_t protocol = 0;  // an answer that is no HTTP
};

/// Of requests that were meant to be sent within the measured time.
struct Tally {
  std::uint64_t meant = 0;
  std::map<int, Histogram> answers;  // latency from the intended sending, by status
  Errors errors;
  std::uint64_t unanswered = 0;  // still on their way, or not even sent, when the patience ended
  std::uint64_t ended = 0;       // answers with 2xx that came within the measured time, whenever sent
  Histogram late;                // sent after they were meant to though a connection was free: ours, not the server's
  std::uint64_t reconnects = 0;
  std::uint64_t bytes = 0;  // received
  double busy = 0;          // share of the time this thread computed
};

/// Runs to the end. Open loop: arrivals are a Poisson process, and one that finds no free connection waits for it with
/// its clock running, so that a server that stalls cannot hide its stall. Throws `std::runtime_error` where the server
/// cannot be reached at the start.
Tally generate(const Requests& requests, const Plan& plan);

}  // namespace atb::load
