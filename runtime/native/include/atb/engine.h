// A compiled model: rows of token ids in, logits out. One small interface, several runtimes behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "atb/bundle.h"

namespace atb {

/// Where a session wants its rows, row after row of `length` tokens; empty where the model has no such input.
struct Inputs {
  std::span<std::int64_t> ids;
  std::span<std::int64_t> mask;
  std::span<std::int64_t> types;
};

/// Buffers of one inference. Used by one thread at a time.
class Session {
 public:
  virtual ~Session() = default;
  /// Shape [batch, length]; of a static engine the one it was compiled for. Valid until the next call of `inputs`.
  virtual Inputs inputs(std::size_t batch, std::size_t length) = 0;
  /// Computes; logits are [batch, labels] and valid until the next call. Throws `Error(Kind::internal)`.
  virtual std::span<const float> run() = 0;
};

/// Immutable; `session()` may be called from any thread. Of its sessions as many run at once as it was opened for, more
/// wait for each other.
class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual const Target& target() const = 0;  // batch and length are the compiled (or the most) ones
  [[nodiscard]] virtual std::string effective_precision() const = 0;
  [[nodiscard]] virtual std::size_t labels() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Session> session() const = 0;
};

/// Whether this library was built with the target's backend, and the machine has what it takes.
bool can_run(const Target& target);
/// Compiles the entry for `batch` rows (its own where 0), and for `at_once` sessions that run in threads of their own.
/// Throws `Error(Kind::bundle)` where it does not compile, or computes in another precision than the entry says.
std::shared_ptr<const Engine> open_engine(const EngineEntry& entry, std::size_t batch = 0, unsigned at_once = 1);

}  // namespace atb
