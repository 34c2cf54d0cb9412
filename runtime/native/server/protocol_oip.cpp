#include "protocol_oip.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "json_writer.h"

namespace atb::oip {
namespace {

using Value = JsonReader::Value;
constexpr std::size_t most_inputs = 4, most_outputs = 3;

[[noreturn]] void refuse(const std::string& rule) { throw Error(Kind::invalid, rule); }

/// Elements in row-major order, however deep they are nested.
void read_data(JsonReader& json, const InputLimits& limits, InputTensor& tensor) {
  json.array("data", [&] {
    switch (json.peek()) {
      case Value::array:
        read_data(json, limits, tensor);
        break;
      case Value::string:
        tensor.texts.push_back(json.string("an element"));
        if (tensor.texts.size() > 2 * limits.rows) {
          throw Error(Kind::too_large, "a request takes " + std::to_string(limits.rows) + " rows; send several");
        }
        break;
      default:
        tensor.numbers.push_back(json.integer("an element of data"));
    }
    if (!tensor.texts.empty() && !tensor.numbers.empty()) {
      refuse("data is all strings or all integers");
    }
  });
}

InputTensor read_input(JsonReader& json, const InputLimits& limits, std::optional<std::size_t>& binary) {
  InputTensor tensor;
  json.object("an input", [&](std::string_view key) {
    if (key == "name") {
      tensor.name = json.string("an input's name");
    } else if (key == "datatype") {
      tensor.datatype = json.string("an input's datatype");
    } else if (key == "shape") {
      json.array("an input's shape", [&] {
        tensor.shape.push_back(json.integer("a dimension"));
        if (tensor.shape.size() > 8) {
          refuse("an input has more than 8 dimensions");
        }
      });
    } else if (key == "data") {
      read_data(json, limits, tensor);
    } else if (key == "parameters") {
      json.object("an input's parameters", [&](std::string_view name) {
        if (name == "binary_data_size") {
          const std::int64_t size = json.integer("binary_data_size");
          if (size < 0) {
            refuse("binary_data_size is negative");
          }
          binary = static_cast<std::size_t>(size);
        } else if (name.starts_with("shared_memory")) {
          refuse("tensors in shared memory are not taken; send them as binary data");
        } else {
          json.skip();
        }
      });
    } else {
      json.skip();
    }
  });
  return tensor;
}

Wanted read_output(JsonReader& json, std::optional<bool>& binary) {
  std::optional<Output> output;
  json.object("an output", [&](std::string_view key) {
    if (key == "name") {
      output = output_of(json.string("an output's name"));
    } else if (key == "parameters") {
      json.object("an output's parameters", [&](std::string_view name) {
        if (name == "binary_data") {
          binary = json.boolean("binary_data");
        } else if (name == "classification" || name.starts_with("shared_memory")) {
          refuse("the output parameter " + std::string(name) + " is not taken; ask for logits, label and score");
        } else {
          json.skip();
        }
      });
    } else {
      json.skip();
    }
  });
  if (!output) {
    refuse("an output has no name");
  }
  return {*output, false};
}

void write_outputs_name(std::string& body, std::string_view name, std::string_view datatype, std::size_t rows,
                        std::size_t columns) {
  body += R"({"name":")";
  body += name;
  body += R"(","datatype":")";
  body += datatype;
  body += R"(","shape":[)";
  write_number(body, rows);
  if (columns > 0) {
    body += ',';
    write_number(body, columns);
  }
  body += ']';
}

void append_bytes(std::string& out, const void* data, std::size_t size) {
  out.append(static_cast<const char*>(data), size);
}

/// One output: its JSON to `body`, and its data to `binary` where that is asked for.
void write_output(const Inference& work, const Wanted& wanted, std::span<const Score> best, std::string& body,
                  std::string& binary) {
  const std::size_t before = binary.size();
  if (wanted.output == logits_output) {
    const auto logits = work.logits();
    write_outputs_name(body, "logits", "FP32", work.rows(), logits.size() / work.rows());
    if (wanted.binary) {
      append_bytes(binary, logits.data(), logits.size_bytes());
    } else {
      body += R"(,"data":)";
      for (const float& value : logits) {
        body += &value == logits.data() ? '[' : ',';
        write_number(body, value);
      }
      body += "]}";
    }
  } else {
    const bool label = wanted.output == label_output;
    write_outputs_name(body, label ? "label" : "score", label ? "BYTES" : "FP32", work.rows(), 0);
    body += wanted.binary ? "" : R"(,"data":)";
    for (const Score& row : best) {
      const auto score = static_cast<float>(row.score);
      const auto size = static_cast<std::uint32_t>(row.label.size());
      if (wanted.binary) {
        label ? append_bytes(binary, &size, sizeof(size)) : append_bytes(binary, &score, sizeof(score));
        binary += label ? row.label : std::string_view();
      } else {
        body += &row == best.data() ? '[' : ',';
        label ? write_string(body, row.label) : write_number(body, score);
      }
    }
    body += wanted.binary ? "" : "]}";
  }
  if (wanted.binary) {
    body += R"(,"parameters":{"binary_data_size":)";
    write_number(body, binary.size() - before);
    body += "}}";
  }
}

}  // namespace

Request read_infer(JsonReader& json, std::string_view raw, const InputLimits& limits, Reply& reply) {
  Request request;
  std::vector<std::optional<std::size_t>> sizes;    // of inputs, where binary
  std::vector<std::optional<bool>> binary_outputs;  // where an output says so itself
  bool binary = false;
  reply.id.clear();
  reply.outputs.clear();
  json.object("the request", [&](std::string_view key) {
    if (key == "id") {
      reply.id = json.string("id");
    } else if (key == "inputs") {
      json.array("inputs", [&] {
        if (request.inputs.size() == most_inputs) {
          refuse("a request has at most 3 inputs");
        }
        request.inputs.push_back(read_input(json, limits, sizes.emplace_back()));
      });
    } else if (key == "outputs") {
      json.array("outputs", [&] {
        if (reply.outputs.size() == most_outputs) {
          refuse("a request has at most 3 outputs: logits, label, score");
        }
        reply.outputs.push_back(read_output(json, binary_outputs.emplace_back()));
      });
    } else if (key == "parameters") {
      json.object("parameters", [&](std::string_view name) {
        if (name == "binary_data_output") {
          binary = json.boolean("binary_data_output");
        } else if (name == "timeout") {
          const std::int64_t timeout = json.integer("timeout, in microseconds,");
          if (timeout < 0) {
            refuse("timeout is negative");
          }
          if (timeout > 0) {  // 0: none, as elsewhere
            request.timeout = std::chrono::microseconds(std::min<std::int64_t>(timeout, 1'000'000'000'000));
          }
        } else {
          json.skip();
        }
      });
    } else {
      json.skip();
    }
  });
  json.end();
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    if (!sizes[i]) {
      continue;
    }
    InputTensor& input = request.inputs[i];
    if (!input.texts.empty() || !input.numbers.empty()) {
      refuse("input '" + std::string(input.name) + "' has both data and binary_data_size");
    }
    if (*sizes[i] > raw.size()) {
      refuse("input '" + std::string(input.name) + "' has " + std::to_string(*sizes[i]) +
             " bytes by its binary_data_size, and " + std::to_string(raw.size()) + " are left behind the JSON");
    }
    read_raw(raw.substr(0, *sizes[i]), input);
    raw.remove_prefix(*sizes[i]);
  }
  if (!raw.empty()) {
    refuse(std::to_string(raw.size()) + " bytes behind the JSON belong to no input");
  }
  for (std::size_t i = 0; i < reply.outputs.size(); ++i) {
    reply.outputs[i].binary = binary_outputs[i].value_or(binary);
  }
  if (reply.outputs.empty()) {
    reply.outputs = {{logits_output, binary}, {label_output, binary}, {score_output, binary}};
  }
  return request;
}

std::optional<std::size_t> write_infer(const Inference& work, const Reply& reply, std::string& body) {
  thread_local std::vector<Score> scores;
  thread_local std::string binary;
  scores.clear();
  binary.clear();
  const auto logits_only = [](const Wanted& wanted) { return wanted.output == logits_output; };
  if (!std::all_of(reply.outputs.begin(), reply.outputs.end(), logits_only)) {
    for (std::size_t i = 0; i < work.rows(); ++i) {
      scores.push_back(best(work.model(), work.logits(i)));
    }
  }
  const std::size_t begin = body.size();
  body += R"({"model_name":)";
  write_string(body, reply.model);
  body += R"(,"model_version":)";
  write_string(body, reply.version);
  if (!reply.id.empty()) {
    body += R"(,"id":)";
    write_string(body, reply.id);
  }
  body += R"(,"outputs":)";
  for (const Wanted& wanted : reply.outputs) {
    body += &wanted == reply.outputs.data() ? '[' : ',';
    write_output(work, wanted, scores, body, binary);
  }
  body += "]}";
  const bool mixed = std::any_of(reply.outputs.begin(), reply.outputs.end(), [](const Wanted& w) { return w.binary; });
  const std::size_t json_bytes = body.size() - begin;
  body += binary;
  return mixed ? std::optional(json_bytes) : std::nullopt;
}

}  // namespace atb::oip
