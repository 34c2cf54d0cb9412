#include "describe.h"

#include <algorithm>

#include "front.h"
#include "json_writer.h"

namespace atb::oip {
namespace {

// `config` names types and counts dimensions in its own way.
struct TensorLine {
  const char *name, *datatype, *shape, *config_type;
};
constexpr TensorLine inputs[] = {
    {"text", "BYTES", "[-1]", "TYPE_STRING"},
    {"input_ids", "INT64", "[-1,-1]", "TYPE_INT64"},
    {"attention_mask", "INT64", "[-1,-1]", "TYPE_INT64"},
    {"token_type_ids", "INT64", "[-1,-1]", "TYPE_INT64"},
};

void write_tensors(std::string& body, const Model& model, bool config) {
  const std::string logits = "[-1," + std::to_string(model.bundle().labels.size()) + "]";
  const TensorLine outputs[] = {
      {"logits", "FP32", logits.c_str(), "TYPE_FP32"},
      {"label", "BYTES", "[-1]", "TYPE_STRING"},
      {"score", "FP32", "[-1]", "TYPE_FP32"},
  };
  const auto write = [&](const TensorLine& line, bool first, const char* optional) {
    body += first ? "[" : ",";
    ((body += R"({"name":")") += line.name) += config ? R"(","data_type":")" : R"(","datatype":")";
    ((body += config ? line.config_type : line.datatype) += config ? R"(","dims":)" : R"(","shape":)") += line.shape;
    (body += config ? optional : "") += '}';
  };
  body += config ? R"("input":)" : R"("inputs":)";
  for (const TensorLine& line : inputs) {
    write(line, &line == inputs, R"(,"optional":true)");
  }
  body += config ? R"(],"output":)" : R"(],"outputs":)";
  for (const TensorLine& line : outputs) {
    write(line, &line == outputs, "");
  }
  body += ']';
}

std::string platform(const Model& model) {
  const auto& engines = model.bundle().engines;
  return "atb_" + (engines.empty() ? "none" : engines.front().target.backend);
}

void write_count(std::string& body, const char* name, std::uint64_t count, std::uint64_t ns) {
  ((body += '"') += name) += R"(":{"count":)";
  write_number(body, count);
  body += R"(,"ns":)";
  write_number(body, ns);
  body += '}';
}

void write_statistics_of(const Registry::Entry& entry, Metrics& all, std::string& body) {
  const ModelMetrics& metrics = all.of(entry.name);
  const auto read = [](const auto& value) { return value.load(std::memory_order_relaxed); };
  const std::uint64_t answered = read(metrics.outcomes[kinds]);
  std::uint64_t failed = 0;
  std::for_each(metrics.outcomes.begin(), metrics.outcomes.end() - 1, [&](const Counter& c) { failed += read(c); });
  body += R"({"name":)";
  write_string(body, entry.name);
  body += R"(,"version":)";
  write_string(body, entry.version);
  body += R"(,"last_inference":)";
  write_number(body, read(metrics.last_ms));
  body += R"(,"inference_count":)";
  write_number(body, read(metrics.rows));
  body += R"(,"execution_count":)";
  write_number(body, entry.model ? entry.model->batcher().counts().batches : 0);
  body += R"(,"inference_stats":{)";
  const std::uint64_t tokenise = read(metrics.nanoseconds[0]), queue = read(metrics.nanoseconds[1]);
  const std::uint64_t engine = read(metrics.nanoseconds[2]), total = read(metrics.nanoseconds[3]);
  write_count(body, "success", answered, total);
  write_count(body += ',', "fail", failed, read(metrics.failed_nanoseconds));
  write_count(body += ',', "queue", answered, queue);
  write_count(body += ',', "compute_input", answered, tokenise);
  write_count(body += ',', "compute_infer", answered, engine);
  write_count(body += ',', "compute_output", answered, total - std::min(total, tokenise + queue + engine));
  body += R"(},"batch_stats":[]})";
}

}  // namespace

void write_server(std::string& body) {
  ((body += R"({"name":"atb","version":")") += version) +=
      R"(","extensions":["binary_tensor_data","model_configuration","model_repository","statistics"]})";
}

void write_model(const Model& model, const Reply& reply, std::string& body) {
  body += R"({"name":)";
  write_string(body, reply.model);
  body += R"(,"versions":[)";
  write_string(body, reply.version);
  ((body += R"(],"platform":")") += platform(model)) += "\",";
  write_tensors(body, model, false);
  body += '}';
}

void write_config(const Model& model, const Reply& reply, std::string& body) {
  body += R"({"name":)";
  write_string(body, reply.model);
  ((body += R"(,"platform":")") += platform(model)) += R"(","max_batch_size":0,)";
  write_tensors(body, model, true);
  (body += R"(,"parameters":{"engines":)") += model.describe();
  body += "}}";
}

void write_statistics(const Registry& registry, Metrics& metrics, const std::string& name,
                      const std::string& of_version, std::string& body) {
  bool any = false;
  body += R"({"model_stats":[)";
  for (const auto& entry : registry.entries()) {
    if ((name.empty() || entry.name == name) && (of_version.empty() || entry.version == of_version)) {
      body += any ? "," : "";
      write_statistics_of(entry, metrics, body);
      any = true;
    }
  }
  body += "]}";
}

void write_index(const Registry& registry, bool ready_only, std::string& body) {
  bool any = false;
  body += '[';
  for (const auto& entry : registry.entries()) {
    if (ready_only && !entry.model) {
      continue;
    }
    body += any ? R"(,{"name":)" : R"({"name":)";
    any = true;
    write_string(body, entry.name);
    body += R"(,"version":)";
    write_string(body, entry.version);
    body += entry.model ? R"(,"state":"READY","reason":)" : R"(,"state":"UNAVAILABLE","reason":)";
    write_string(body, valid_utf8(entry.reason) ? entry.reason : "unknown");
    body += '}';
  }
  body += ']';
}

}  // namespace atb::oip
