#include "engine/openvino_precision.h"

#include <algorithm>
#include <openvino/runtime/properties.hpp>

namespace atb {

std::string precision_of(const ov::CompiledModel& compiled) {
  std::size_t products = 0, small = 0;
  for (const auto& op : compiled.get_runtime_model()->get_ops()) {
    const auto& info = op->get_rt_info();
    const auto layer = info.find("layerType");
    if (layer == info.end()) continue;
    const auto type = layer->second.as<std::string>();
    if (type != "FullyConnected" && type != "Gemm") continue;
    ++products;
    const auto precision = info.at("runtimePrecision").as<std::string>();
    if (precision == "i8" || precision == "u8") ++small;
  }
  if (small * 2 > products) return "int8";
  return compiled.get_property(ov::hint::inference_precision).get_type_name();
}

std::string other_precision(const Target& target, const std::string& effective, const ov::Model& model) {
  const std::string found = "asked for " + target.precision + ", but " + target.device + " computes in " + effective;
  const bool carries = std::ranges::any_of(
      model.get_ops(), [](const auto& op) { return std::string_view(op->get_type_name()) == "FakeQuantize"; });
  if (target.precision == "int8")
    return found +
           (carries ? ": it reports int8 kernels for no more than half of the products with weights"
                    : ": the model carries no QuantizeLinear and DequantizeLinear; calibrate and quantise it first");
  if (effective == "int8") return found + ": the model is quantised; ask for int8 or auto";
  return found;
}

}  // namespace atb
