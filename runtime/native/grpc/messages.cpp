#include "messages.h"

#include <cstdint>
#include <string>

namespace atb {
namespace {

using Input = inference::ModelInferRequest::InferInputTensor;
using Parameter = inference::InferParameter;

constexpr int most_inputs = 3, most_outputs = 3, most_dimensions = 8;

[[noreturn]] void refuse(const std::string& rule) { throw Error(Kind::invalid, rule); }

std::string name_of(const Input& input) { return "input '" + input.name() + "'"; }

/// Elements in the field of the datatype; what lies in another field is not the tensor's.
void read_contents(const Input& input, const InputLimits& limits, InputTensor& tensor) {
  const auto& contents = input.contents();
  const int others = contents.bool_contents_size() + contents.int_contents_size() + contents.uint_contents_size() +
                     contents.uint64_contents_size() + contents.fp32_contents_size() + contents.fp64_contents_size();
  if (others > 0) {
    refuse(name_of(input) + " has contents of another type; BYTES are in bytes_contents, INT64 in int64_contents");
  }
  if (static_cast<std::size_t>(contents.bytes_contents_size()) > 2 * limits.rows) {
    throw Error(Kind::too_large, "a request takes " + std::to_string(limits.rows) + " rows; send several");
  }
  tensor.texts.assign(contents.bytes_contents().begin(), contents.bytes_contents().end());
  tensor.numbers.assign(contents.int64_contents().begin(), contents.int64_contents().end());
}

InputTensor read_input(const Input& input, const std::string* raw, const InputLimits& limits) {
  for (const auto& parameter : input.parameters()) {
    if (parameter.first.starts_with("shared_memory")) {
      refuse("tensors in shared memory are not taken; send them in the request");
    }
  }
  if (input.shape_size() > most_dimensions) {
    refuse(name_of(input) + " has more than " + std::to_string(most_dimensions) + " dimensions");
  }
  InputTensor tensor;
  tensor.name = input.name();
  tensor.datatype = input.datatype();
  tensor.shape.assign(input.shape().begin(), input.shape().end());
  if (raw == nullptr) {
    read_contents(input, limits, tensor);
  } else if (input.has_contents()) {
    refuse(name_of(input) + " has contents, and the request raw_input_contents; only one of them is read");
  } else {
    read_raw(*raw, tensor);
  }
  return tensor;
}

std::optional<std::chrono::microseconds> read_timeout(const inference::ModelInferRequest& request) {
  const auto found = request.parameters().find("timeout");
  if (found == request.parameters().end()) {
    return std::nullopt;
  }
  const Parameter& value = found->second;
  std::int64_t timeout = -1;
  if (value.parameter_choice_case() == Parameter::kInt64Param) {
    timeout = value.int64_param();
  } else if (value.parameter_choice_case() == Parameter::kUint64Param && value.uint64_param() <= INT64_MAX) {
    timeout = static_cast<std::int64_t>(value.uint64_param());
  }
  if (timeout < 0) {
    refuse("timeout is a whole number of microseconds, 0 for none");
  }
  return timeout > 0 ? std::optional(std::chrono::microseconds(timeout)) : std::nullopt;
}

std::vector<Output> read_outputs(const inference::ModelInferRequest& request) {
  if (request.outputs_size() > most_outputs) {
    refuse("a request has at most 3 outputs: logits, label, score");
  }
  std::vector<Output> outputs;
  for (const auto& output : request.outputs()) {
    for (const auto& parameter : output.parameters()) {
      if (parameter.first == "classification" || parameter.first.starts_with("shared_memory")) {
        refuse("the output parameter " + parameter.first + " is not taken; ask for logits, label and score");
      }
    }
    outputs.push_back(output_of(output.name()));
  }
  return outputs.empty() ? std::vector{logits_output, label_output, score_output} : outputs;
}

void append(std::string& out, const void* data, std::size_t size) { out.append(static_cast<const char*>(data), size); }

void write_logits(const Inference& work, bool raw, inference::ModelInferResponse& response,
                  inference::ModelInferResponse::InferOutputTensor& output) {
  const auto logits = work.logits();
  output.set_name("logits");
  output.set_datatype("FP32");
  output.add_shape(static_cast<std::int64_t>(work.rows()));
  output.add_shape(static_cast<std::int64_t>(logits.size() / work.rows()));
  if (raw) {
    append(*response.add_raw_output_contents(), logits.data(), logits.size_bytes());
  } else {
    output.mutable_contents()->mutable_fp32_contents()->Add(logits.begin(), logits.end());
  }
}

void write_label(const Inference& work, std::span<const Score> best, bool raw, inference::ModelInferResponse& response,
                 inference::ModelInferResponse::InferOutputTensor& output) {
  output.set_name("label");
  output.set_datatype("BYTES");
  output.add_shape(static_cast<std::int64_t>(work.rows()));
  std::string* bytes = raw ? response.add_raw_output_contents() : nullptr;
  for (const Score& row : best) {
    if (bytes != nullptr) {
      const auto size = static_cast<std::uint32_t>(row.label.size());
      append(*bytes, &size, sizeof(size));
      bytes->append(row.label);
    } else {
      output.mutable_contents()->add_bytes_contents(row.label.data(), row.label.size());
    }
  }
}

void write_score(const Inference& work, std::span<const Score> best, bool raw, inference::ModelInferResponse& response,
                 inference::ModelInferResponse::InferOutputTensor& output) {
  output.set_name("score");
  output.set_datatype("FP32");
  output.add_shape(static_cast<std::int64_t>(work.rows()));
  std::string* bytes = raw ? response.add_raw_output_contents() : nullptr;
  for (const Score& row : best) {
    const auto score = static_cast<float>(row.score);
    if (bytes != nullptr) {
      append(*bytes, &score, sizeof(score));
    } else {
      output.mutable_contents()->add_fp32_contents(score);
    }
  }
}

}  // namespace

Asked read(const inference::ModelInferRequest& request, const InputLimits& limits) {
  if (request.inputs_size() > most_inputs) {
    refuse("a request has at most 3 inputs");
  }
  Asked asked;
  asked.raw = request.raw_input_contents_size() > 0;
  if (asked.raw && request.raw_input_contents_size() != request.inputs_size()) {
    refuse("a request has " + std::to_string(request.inputs_size()) + " inputs and " +
           std::to_string(request.raw_input_contents_size()) + " raw_input_contents; send one for each, or none");
  }
  asked.timeout = read_timeout(request);
  asked.outputs = read_outputs(request);
  for (int i = 0; i < request.inputs_size(); ++i) {
    asked.inputs.push_back(read_input(request.inputs(i), asked.raw ? &request.raw_input_contents(i) : nullptr, limits));
  }
  return asked;
}

void write(const Inference& work, const Asked& asked, inference::ModelInferResponse& response) {
  thread_local std::vector<Score> scores;
  scores.clear();
  for (const Output output : asked.outputs) {
    if (output != logits_output && scores.empty()) {
      for (std::size_t i = 0; i < work.rows(); ++i) {
        scores.push_back(best(work.model(), work.logits(i)));
      }
    }
    auto& tensor = *response.add_outputs();
    if (output == logits_output) {
      write_logits(work, asked.raw, response, tensor);
    } else if (output == label_output) {
      write_label(work, scores, asked.raw, response, tensor);
    } else {
      write_score(work, scores, asked.raw, response, tensor);
    }
  }
}

}  // namespace atb
