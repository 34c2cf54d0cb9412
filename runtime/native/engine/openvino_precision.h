// What a compiled OpenVINO model really computes in; the twin of runtime/backends/openvino/precision.py.
#pragma once

#include <openvino/runtime/compiled_model.hpp>
#include <string>

#include "atb/bundle.h"

namespace atb {

/// "int8" where most products with weights run in int8 kernels, else what the rest computes in.
std::string precision_of(const ov::CompiledModel& compiled);
/// What to say where it is not the one the target asks for; `model` is what was compiled.
std::string other_precision(const Target& target, const std::string& effective, const ov::Model& model);

}  // namespace atb
