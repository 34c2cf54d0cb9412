#include "protocol_tei.h"

#include <algorithm>
#include <optional>

#include "front.h"
#include "json_writer.h"

namespace atb::tei {
namespace {

using Value = JsonReader::Value;
constexpr const char* shapes = R"("inputs" is a text, a pair ["a", "b"], or a batch [["a"], ["b"]] of texts and pairs)";

Text read_strings(JsonReader& json, std::string_view first) {
  return {first, json.string("the second text of a pair"), true};
}

/// A text or a pair, as an element of a batch.
Text read_element(JsonReader& json) {
  if (json.peek() == Value::string) {
    return {json.string("a text"), {}, false};
  }
  Text text;
  std::size_t count = 0;
  json.array("an element of a batch", [&] {
    switch (count++) {
      case 0:
        text.first = json.string("a text");
        break;
      case 1:
        text = read_strings(json, text.first);
        break;
      default:
        throw Error(Kind::invalid, shapes);
    }
  });
  if (count == 0) {
    throw Error(Kind::invalid, shapes);
  }
  return text;
}

void read_inputs(JsonReader& json, const InputLimits& limits, Request& request) {
  request.texts.clear();
  request.batch = false;
  if (json.peek() == Value::string) {
    request.texts.push_back({json.string("inputs"), {}, false});
    return;
  }
  std::size_t strings = 0;
  json.array("inputs", [&] {
    if (json.peek() == Value::array) {
      request.batch = true;
      if (request.texts.size() == limits.rows) {
        throw Error(Kind::too_large, "a request takes " + std::to_string(limits.rows) + " rows; send several");
      }
      request.texts.push_back(read_element(json));
    } else if (++strings == 1) {
      request.texts.push_back({json.string("a text"), {}, false});
    } else if (strings == 2 && !request.batch) {
      request.texts.front() = read_strings(json, request.texts.front().first);
    } else {
      throw Error(Kind::invalid, shapes);
    }
    if (request.batch && strings > 0) {
      throw Error(Kind::invalid, shapes);
    }
  });
}

}  // namespace

Request read_predict(JsonReader& json, const InputLimits& limits) {
  Request request;
  bool any = false;
  json.object("the request", [&](std::string_view key) {
    if (key == "inputs") {
      any = true;
      read_inputs(json, limits, request);
    } else if (key == "raw_scores") {
      request.raw_scores = json.boolean("raw_scores");
    } else if (key == "truncate") {
      if (json.peek() == Value::null) {
        json.skip();
      } else {
        request.truncate = json.boolean("truncate");
      }
    } else if (key == "truncation_direction") {
      const auto lower = [](std::string_view text) { return text == "right" || text == "Right"; };
      if (!lower(json.string("truncation_direction"))) {
        throw Error(Kind::invalid, "truncation_direction is right: texts are cut as the model was trained");
      }
    } else {
      json.skip();
    }
  });
  json.end();
  if (!any) {
    throw Error(Kind::invalid, shapes);
  }
  return request;
}

void write_predict(const Inference& work, bool batch, bool raw_scores, std::string& body) {
  thread_local std::vector<Score> scores;
  const std::vector<std::string>& labels = work.model().bundle().labels;
  body += batch ? "[" : "";
  for (std::size_t row = 0; row < work.rows(); ++row) {
    body += row > 0 ? ",[" : "[";
    if (raw_scores) {
      scores.clear();
      for (std::size_t i = 0; i < labels.size(); ++i) {
        scores.push_back({labels[i], work.logits(row)[i]});
      }
      std::stable_sort(scores.begin(), scores.end(), [](const Score& a, const Score& b) { return a.score > b.score; });
    } else {
      work.model().scores(work.logits(row), scores);
    }
    for (const Score& score : scores) {
      body += &score == scores.data() ? R"({"score":)" : R"(,{"score":)";
      raw_scores ? write_number(body, static_cast<float>(score.score)) : write_number(body, score.score);
      body += R"(,"label":)";
      write_string(body, score.label);
      body += '}';
    }
    body += ']';
  }
  body += batch ? "]" : "";
}

void write_info(const Model& model, std::size_t rows, std::string& body) {
  const Bundle& bundle = model.bundle();
  body += R"({"model_id":)";
  write_string(body, bundle.name);
  body += R"(,"model_sha":)";
  write_string(body, bundle.sha256);
  body += R"(,"model_dtype":)";
  write_string(body, bundle.engines.empty() ? std::string_view("float32") : bundle.engines.front().effective_precision);
  body += R"(,"model_type":{"classifier":{"id2label":{)";
  for (std::size_t i = 0; i < bundle.labels.size(); ++i) {
    body += i > 0 ? "," : "";
    write_string(body, std::to_string(i));
    body += ':';
    write_string(body, bundle.labels[i]);
  }
  body += R"(},"label2id":{)";
  for (std::size_t i = 0; i < bundle.labels.size(); ++i) {
    body += i > 0 ? "," : "";
    write_string(body, bundle.labels[i]);
    body += ':';
    write_number(body, i);
  }
  body += R"(}}},"max_input_length":)";
  write_number(body, model.max_length());
  body += R"(,"max_client_batch_size":)";
  write_number(body, rows);
  body += R"(,"auto_truncate":true,"runtime":)";
  body += model.describe();
  body += R"(,"version":")";
  body += version;
  body += R"("})";
}

}  // namespace atb::tei
