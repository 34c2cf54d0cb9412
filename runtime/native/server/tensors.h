// Tensors of the Open Inference Protocol as rows of tokens, whatever form they came in: JSON, binary or protobuf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "infer.h"

namespace atb {

struct InputTensor {
  std::string_view name;
  std::string_view datatype;
  std::vector<std::int64_t> shape{};
  std::vector<std::string_view> texts{};  // where the datatype is BYTES
  std::vector<std::int64_t> numbers{};    // where it is INT64
};

struct InputLimits {
  std::size_t rows = 256;
  std::size_t text_bytes = 256 * 1024;  // of one row
};

/// A text, or a pair of them, to classify.
struct Text {
  std::string_view first, second;
  bool pair = false;
};
/// Tokenises. What is longer than the model takes is cut, or refused as `too_large` where `cut` is false.
std::shared_ptr<Inference> encode(const std::shared_ptr<Model>& model, std::span<const Text> texts,
                                  const InputLimits& limits, bool cut = true);

/// Elements of a shape. Throws `Error` for negative dimensions, more than two of them and what no request can hold.
std::size_t elements(std::string_view name, std::span<const std::int64_t> shape);

/// Fills `texts` or `numbers` from the protocol's binary form: little endian, BYTES elements each after its length
/// as u32. The views point into `raw`. Throws `Error` where sizes do not add up.
void read_raw(std::string_view raw, InputTensor& tensor);

/// Checks the inputs and tokenises them: `text` BYTES [n] or [n, 2], or `input_ids`, `attention_mask` and
/// `token_type_ids` INT64 [n, l], padded at the end only. Throws `Error` telling what the model takes.
std::shared_ptr<Inference> encode(const std::shared_ptr<Model>& model, std::span<const InputTensor> inputs,
                                  const InputLimits& limits);

/// The outputs there are; a bit each.
enum Output : unsigned { logits_output = 1, label_output = 2, score_output = 4, all_outputs = 7 };
/// Of a name; throws `Error` naming those there are.
Output output_of(std::string_view name);

}  // namespace atb
