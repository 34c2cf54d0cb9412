// What can go wrong, in the caller's terms.
#pragma once

#include <stdexcept>
#include <string>

namespace atb {

enum class Kind {
  invalid,      // the request is not what the model takes
  not_found,    // no such model, version or name
  too_large,    // over a stated limit
  overloaded,   // the queue is full: try again later
  expired,      // its deadline passed before an answer
  cancelled,    // its client has gone
  unavailable,  // loading, stopping or unloaded
  bundle,       // the bundle is not intact, or not for this machine
  internal,     // ours to mend
};

/// The one exception of the library. `what()` tells the rule, the value and the fix.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

}  // namespace atb
