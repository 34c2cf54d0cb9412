// The conventions of text-embeddings-inference for classifiers: POST /predict.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "json_reader.h"
#include "tensors.h"

namespace atb::tei {

struct Request {
  std::vector<Text> texts;  // into the body, or into the reader
  bool batch = false;       // answered by a list of lists
  bool raw_scores = false;  // logits instead of probabilities
  bool truncate = true;
};

/// `{"inputs": "a" | ["a", "b"] (one pair) | [["a"], ["a", "b"]] (a batch)}`. Throws `Error(Kind::invalid)`.
Request read_predict(JsonReader& json, const InputLimits& limits);
void write_predict(const Inference& work, bool batch, bool raw_scores, std::string& body);
/// `/info` of a model.
void write_info(const Model& model, std::size_t rows, std::string& body);

}  // namespace atb::tei
