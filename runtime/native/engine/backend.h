// What one runtime of engines is to this library.
#pragma once

#include <memory>
#include <string>

#include "atb/engine.h"

namespace atb {

class Backend {
 public:
  virtual ~Backend() = default;
  /// As `Target::backend` names it.
  [[nodiscard]] virtual const char* name() const = 0;
  /// Why this machine cannot give the target what it asks for; empty where it can.
  [[nodiscard]] virtual std::string refusal(const Target& target) const = 0;
  /// `entry` is of this backend and was not refused; its batch is the one to compile. Throws `Error(Kind::bundle)`.
  [[nodiscard]] virtual std::shared_ptr<const Engine> open(const EngineEntry& entry, unsigned at_once) const = 0;
};

const Backend& openvino_backend();  // others as CMakeLists.txt tells

/// The names of what `runtime.classifier` can feed, in its order.
inline constexpr const char* kInputNames[] = {"input_ids", "attention_mask", "token_type_ids"};
inline constexpr const char* kOutputName = "logits";

/// An error of a backend's own library as ours: what was asked, and the end of what it said.
[[noreturn]] void refuse_entry(const EngineEntry& entry, const std::string& why);

}  // namespace atb
