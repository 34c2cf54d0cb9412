// Counters and histograms of the server, as Prometheus text. Recording takes no lock and no memory.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "atb/registry.h"
#include "infer.h"
#include "status.h"

namespace atb {

using Counter = std::atomic<std::uint64_t>;
inline void add(Counter& counter, std::uint64_t by = 1) noexcept { counter.fetch_add(by, std::memory_order_relaxed); }

/// Upper bounds in the unit of what is observed; one more bucket for what is above all of them.
class Histogram {
 public:
  static constexpr std::size_t most = 20;
  explicit Histogram(std::span<const double> bounds) noexcept : bounds_(bounds) {}
  void observe(double value, std::uint64_t times = 1) noexcept;
  void write(std::string& out, const std::string& name, const std::string& labels, double scale) const;

 private:
  std::span<const double> bounds_;
  std::array<Counter, most> counts_{};
  Counter sum_{0};  // in thousandths
};

/// Of one model, over all its versions.
struct ModelMetrics {
  ModelMetrics();
  Histogram request, tokenise, queue, engine;  // microseconds
  Histogram batch;                             // rows
  std::array<Counter, kinds + 1> outcomes{};   // by Kind; the last: answered
  Counter rows{0};
  std::array<Counter, 4> nanoseconds{};  // tokenise, queue, engine, total of what was answered, for OIP's statistics
  Counter failed_nanoseconds{0};
  std::atomic<std::int64_t> last_ms{0};  // since 1970, of the last request

  void answered(const Timing& timing, std::size_t rows, std::size_t batch) noexcept;
  void refused(Kind why, std::chrono::nanoseconds total) noexcept;
};

class Metrics {
 public:
  /// Of a model of the registry, never of a name that only a client made up: made once, lives as long as this.
  ModelMetrics& of(const std::string& model);
  /// Of a request that named no model of ours, or was refused before it was read.
  void refused(Kind why) noexcept { add(unnamed_[static_cast<std::size_t>(why)]); }
  void responded(unsigned http_status) noexcept;

  [[nodiscard]] std::string text(const Registry& registry) const;

  std::atomic<std::int64_t> connections{0};
  Counter accepted{0}, turned_away{0}, lines_dropped{0};

 private:
  mutable std::mutex mutex_;  // of the map, not of what it holds
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_;
  std::array<Counter, kinds> unnamed_{};
  std::array<Counter, 600> responses_{};
};

}  // namespace atb
