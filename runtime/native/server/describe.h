// What the Open Inference Protocol tells of models, as JSON.
#pragma once

#include <string>

#include "exchange.h"
#include "metrics.h"

namespace atb::oip {

void write_server(std::string& body);
void write_model(const Model& model, const Reply& reply, std::string& body);
void write_config(const Model& model, const Reply& reply, std::string& body);
/// Of one version of a model, or of all of one name, or of all (both empty).
void write_statistics(const Registry& registry, Metrics& metrics, const std::string& name, const std::string& version,
                      std::string& body);
void write_index(const Registry& registry, bool ready_only, std::string& body);

}  // namespace atb::oip
