#include "tensors.h"

#include <bit>
#include <cstring>
#include <string>

namespace atb {
namespace {

static_assert(std::endian::native == std::endian::little, "binary tensors are read where they lie");

[[noreturn]] void refuse(std::string_view name, const std::string& rule, Kind kind = Kind::invalid) {
  throw Error(kind, "input '" + std::string(name) + "' " + rule);
}

// Of what a request can carry: far above any limit on rows or tokens, far below any overflow.
constexpr std::size_t most_elements = std::size_t{1} << 24;

std::string shown(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const auto size : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  }
  return text + "]";
}

std::size_t checked_rows(std::size_t rows, const InputLimits& limits) {
  if (rows == 0) {
    throw Error(Kind::invalid, "the request has no rows; send at least one");
  }
  if (rows > limits.rows) {
    throw Error(Kind::too_large, "the request has " + std::to_string(rows) + " rows, and one takes " +
                                     std::to_string(limits.rows) + "; send several");
  }
  return rows;
}

void check_count(const InputTensor& tensor, std::size_t count) {
  if (const std::size_t expected = elements(tensor.name, tensor.shape); count != expected) {
    refuse(tensor.name, "has " + std::to_string(count) + " elements of " + std::string(tensor.datatype) +
                            ", and its shape " + shown(tensor.shape) + " says " + std::to_string(expected));
  }
}

std::shared_ptr<Inference> from_texts(const std::shared_ptr<Model>& model, const InputTensor& input,
                                      const InputLimits& limits) {
  if (input.datatype != "BYTES") {
    refuse(input.name, "is BYTES, not " + std::string(input.datatype));
  }
  const bool pairs = input.shape.size() == 2 && input.shape[1] == 2;
  if (input.shape.empty() || (input.shape.size() == 2 && input.shape[1] != 1 && !pairs)) {
    refuse(input.name, "has shape [n], or [n, 2] for pairs, not " + shown(input.shape));
  }
  check_count(input, input.texts.size());
  std::vector<Text> texts(input.texts.size() / (pairs ? 2 : 1));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    texts[i] = pairs ? Text{input.texts[2 * i], input.texts[2 * i + 1], true} : Text{input.texts[i], {}, false};
  }
  return encode(model, texts, limits);
}

/// Tokens of a row before its padding.
std::size_t filled(const InputTensor& mask, std::span<const std::int64_t> row, std::size_t index) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] != 0 && row[i] != 1) {
      refuse(mask.name, "holds 0 and 1 only, not " + std::to_string(row[i]));
    }
    if (row[i] == 1) {
      if (length != i) {
        refuse(mask.name, "has padding before tokens in row " + std::to_string(index) + "; pad at the end only");
      }
      ++length;
    }
  }
  if (length == 0) {
    refuse(mask.name, "leaves no token in row " + std::to_string(index));
  }
  return length;
}

std::shared_ptr<Inference> from_ids(const std::shared_ptr<Model>& model, const InputTensor& ids,
                                    const InputTensor* mask, const InputTensor* types, const InputLimits& limits) {
  for (const InputTensor* tensor : {&ids, mask, types}) {
    if (tensor == nullptr) {
      continue;
    }
    if (tensor->datatype != "INT64") {
      refuse(tensor->name, "is INT64, not " + std::string(tensor->datatype));
    }
    if (tensor->shape.size() != 2) {
      refuse(tensor->name, "has shape [rows, tokens], not " + shown(tensor->shape));
    }
    if (tensor->shape != ids.shape) {
      refuse(tensor->name,
             "has shape " + shown(tensor->shape) + ", and input_ids " + shown(ids.shape) + "; they must be the same");
    }
    check_count(*tensor, tensor->numbers.size());
  }
  const std::size_t rows = checked_rows(static_cast<std::size_t>(ids.shape[0]), limits);
  const auto width = static_cast<std::size_t>(ids.shape[1]);
  if (width == 0) {
    refuse(ids.name, "has rows of no tokens");
  }
  const auto vocabulary = static_cast<std::int64_t>(model->tokenizer().vocabulary_size());
  auto work = std::make_shared<Inference>(model, rows);
  for (std::size_t i = 0; i < rows; ++i) {
    const auto row = [&](const InputTensor& tensor) { return std::span(tensor.numbers).subspan(i * width, width); };
    const std::size_t length = mask != nullptr ? filled(*mask, row(*mask), i) : width;
    if (length > model->max_length()) {
      refuse(ids.name, "has " + std::to_string(length) + " tokens in row " + std::to_string(i) +
                           ", and the model takes " + std::to_string(model->max_length()));
    }
    Encoding& tokens = work->tokens(i);
    tokens.ids.reserve(length);
    tokens.types.reserve(length);
    for (std::size_t j = 0; j < length; ++j) {
      const std::int64_t id = row(ids)[j];
      const std::int64_t type = types != nullptr ? row(*types)[j] : 0;
      if (id < 0 || id >= vocabulary) {
        refuse(ids.name,
               "holds " + std::to_string(id) + ", and the vocabulary ends at " + std::to_string(vocabulary - 1));
      }
      if (type != 0 && type != 1) {
        refuse(types->name, "holds 0 and 1 only, not " + std::to_string(type));
      }
      tokens.ids.push_back(static_cast<std::int32_t>(id));
      tokens.types.push_back(static_cast<std::uint8_t>(type));
    }
  }
  return work;
}

}  // namespace

std::size_t elements(std::string_view name, std::span<const std::int64_t> shape) {
  if (shape.size() > 2) {
    refuse(name, "has " + std::to_string(shape.size()) + " dimensions, and none of ours has more than two");
  }
  std::size_t count = 1;
  for (const auto size : shape) {
    if (size < 0) {
      refuse(name, "has a negative dimension in " + shown(shape));
    }
    if (static_cast<std::uint64_t>(size) > most_elements) {
      refuse(name, "is larger than any request: " + shown(shape), Kind::too_large);
    }
    count *= static_cast<std::size_t>(size);
  }
  if (count > most_elements) {
    refuse(name, "is larger than any request: " + shown(shape), Kind::too_large);
  }
  return count;
}

void read_raw(std::string_view raw, InputTensor& tensor) {
  const std::size_t count = elements(tensor.name, tensor.shape);
  if (tensor.datatype == "INT64") {
    if (raw.size() != count * sizeof(std::int64_t)) {
      refuse(tensor.name, "has " + std::to_string(raw.size()) + " bytes of data, and INT64 of shape " +
                              shown(tensor.shape) + " is " + std::to_string(count * sizeof(std::int64_t)));
    }
    tensor.numbers.resize(count);
    if (count > 0) {
      std::memcpy(tensor.numbers.data(), raw.data(), raw.size());
    }
    return;
  }
  if (tensor.datatype != "BYTES") {
    refuse(tensor.name, "is BYTES or INT64, not " + std::string(tensor.datatype));
  }
  if (count > raw.size() / sizeof(std::uint32_t)) {
    refuse(tensor.name,
           "has " + std::to_string(raw.size()) + " bytes of data, too few for shape " + shown(tensor.shape));
  }
  tensor.texts.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t size = 0;
    if (raw.size() < sizeof(size)) {
      refuse(tensor.name, "ends before the length of element " + std::to_string(i));
    }
    std::memcpy(&size, raw.data(), sizeof(size));
    raw.remove_prefix(sizeof(size));
    if (size > raw.size()) {
      refuse(tensor.name, "has " + std::to_string(raw.size()) + " bytes left for element " + std::to_string(i) +
                              ", whose length is " + std::to_string(size));
    }
    tensor.texts.push_back(raw.substr(0, size));
    raw.remove_prefix(size);
  }
  if (!raw.empty()) {
    refuse(tensor.name, "has " + std::to_string(raw.size()) + " bytes after its last element");
  }
}

std::shared_ptr<Inference> encode(const std::shared_ptr<Model>& model, std::span<const Text> texts,
                                  const InputLimits& limits, bool cut) {
  auto work = std::make_shared<Inference>(model, checked_rows(texts.size(), limits));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Text& text = texts[i];
    const std::size_t bytes = text.first.size() + text.second.size();
    if (bytes > limits.text_bytes) {
      throw Error(Kind::too_large, "text " + std::to_string(i) + " has " + std::to_string(bytes) +
                                       " bytes, and at most " + std::to_string(limits.text_bytes) + " are taken");
    }
    const std::size_t most = cut ? model->max_length() : 4 * bytes + 16;  // more than any text has
    Encoding& tokens = work->tokens(i);
    if (text.pair) {
      model->tokenizer().encode(text.first, text.second, most, tokens);
    } else {
      model->tokenizer().encode(text.first, most, tokens);
    }
    if (tokens.size() > model->max_length()) {
      throw Error(Kind::too_large, "text " + std::to_string(i) + " has " + std::to_string(tokens.size()) +
                                       " tokens, and the model takes " + std::to_string(model->max_length()) +
                                       "; shorten it, or let it be cut by \"truncate\": true");
    }
  }
  return work;
}

std::shared_ptr<Inference> encode(const std::shared_ptr<Model>& model, std::span<const InputTensor> inputs,
                                  const InputLimits& limits) {
  const InputTensor *text = nullptr, *ids = nullptr, *mask = nullptr, *types = nullptr;
  for (const InputTensor& input : inputs) {
    const InputTensor** slot = input.name == "text"             ? &text
                               : input.name == "input_ids"      ? &ids
                               : input.name == "attention_mask" ? &mask
                               : input.name == "token_type_ids" ? &types
                                                                : nullptr;
    if (slot == nullptr) {
      refuse(input.name, "is not one of text, or input_ids, attention_mask and token_type_ids");
    }
    if (*slot != nullptr) {
      refuse(input.name, "is there twice");
    }
    *slot = &input;
  }
  if (text != nullptr && inputs.size() == 1) {
    return from_texts(model, *text, limits);
  }
  if (text != nullptr || ids == nullptr) {
    throw Error(Kind::invalid,
                "a request has either the input text, or input_ids with attention_mask and token_type_ids if need be");
  }
  return from_ids(model, *ids, mask, types, limits);
}

Output output_of(std::string_view name) {
  if (name == "logits") {
    return logits_output;
  }
  if (name == "label") {
    return label_output;
  }
  if (name == "score") {
    return score_output;
  }
  throw Error(Kind::invalid, "output '" + std::string(name) + "' is not one of logits, label, score");
}

}  // namespace atb
