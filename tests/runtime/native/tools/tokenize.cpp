// The native tokenizer on standard input, for the tests that compare it with `tokenizers`, and its stopwatch.
//
//   atb-tokenize                            JSON lines in, one JSON line out for each
//     {"file": PATH, "length": 64}            opens a tokenizer ("json": its text); "strategy", "left": how to cut
//     "text", ["text", "other"]               [[ids], [types]], or {"error": ..., "kind": ...}
//   atb-tokenize --bench TOKENIZER.json     microseconds a call
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "atb/error.h"
#include "atb/tokenizer.h"

namespace {

using nlohmann::json;

class Shell {
 public:
  std::string answer(const std::string& line) {
    try {
      const json asked = json::parse(line);
      if (asked.is_object()) return open(asked).dump();
      if (!tokenizer_) throw atb::Error(atb::Kind::invalid, "no tokenizer is open: the one that was asked was refused");
      if (asked.is_array())
        tokenizer_->encode(asked.at(0).get_ref<const std::string&>(), asked.at(1).get_ref<const std::string&>(),
                           length_, out_, how_);
      else
        tokenizer_->encode(asked.get_ref<const std::string&>(), length_, out_, how_);
      return shown();
    } catch (const atb::Error& error) {
      return json{{"error", error.what()}, {"kind", error.kind() == atb::Kind::bundle ? "bundle" : "invalid"}}.dump();
    }
  }

 private:
  std::optional<atb::Tokenizer> tokenizer_;
  std::size_t length_ = 512;
  atb::Truncation how_;
  atb::Encoding out_;

  json open(const json& asked) {
    using Strategy = atb::Truncation::Strategy;
    tokenizer_.reset();
    if (asked.contains("file")) tokenizer_ = atb::Tokenizer::from_file(asked["file"].get<std::string>());
    if (asked.contains("json")) tokenizer_ = atb::Tokenizer::from_json(asked["json"].get_ref<const std::string&>());
    length_ = asked.value("length", std::size_t{512});
    how_.left = asked.value("left", false);
    const std::string strategy = asked.value("strategy", "longest_first");
    how_.strategy = strategy == "only_first"    ? Strategy::only_first
                    : strategy == "only_second" ? Strategy::only_second
                                                : Strategy::longest_first;
    return {{"pad_id", tokenizer_.value().pad_id()}, {"size", tokenizer_.value().vocabulary_size()}};
  }

  [[nodiscard]] std::string shown() const {
    std::string text = "[[";
    for (std::size_t i = 0; i < out_.size(); ++i) (text += i == 0 ? "" : ",") += std::to_string(out_.ids[i]);
    text += "],[";
    for (std::size_t i = 0; i < out_.size(); ++i) (text += i == 0 ? "" : ",") += std::to_string(out_.types[i]);
    return text += "]]";
  }
};

using Clock = std::chrono::steady_clock;
using Texts = std::vector<std::string>;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// Of a call: the median over rounds of the mean of a round, going round among `texts`.
double warm(const atb::Tokenizer& tokenizer, const Texts& texts, std::size_t length) {
  constexpr std::size_t kCalls = 500;
  atb::Encoding out;
  std::vector<double> rounds(201);
  for (double& round : rounds) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < kCalls; ++i) tokenizer.encode(texts[i % texts.size()], length, out);
    round = microseconds_since(start) / kCalls;
  }
  return median(rounds);
}

/// Of a call after something else has used the caches, as an engine does between requests.
double cold(const atb::Tokenizer& tokenizer, const Texts& texts, std::size_t length) {
  std::vector<unsigned char> other(std::size_t{32} << 20);
  atb::Encoding out;
  std::vector<double> calls(201);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    for (std::size_t at = 0; at < other.size(); at += 64) ++other[at];
    const auto start = Clock::now();
    tokenizer.encode(texts[i % texts.size()], length, out);
    calls[i] = microseconds_since(start);
  }
  return median(calls);
}

int bench(const char* path) {
  constexpr std::size_t kMixed = 128;
  const atb::Tokenizer tokenizer = atb::Tokenizer::from_file(path);
  const Texts sentences = {"a gripping story that never ever loses its fine sense of humor.",
                           "the film is too long, but the ending is worth it.",
                           "what a dull and predictable way to end such a great trilogy!",
                           "an honest portrait of two old people who just cannot let go."};
  const std::string accents =
      "Caf\u00e9 M\u00fcller served na\u00efve tourists in S\u00e3o Paulo; \u201cr\u00e9sum\u00e9s\u201d cost \u20ac20 "
      "\u2014 \u6771\u4eac and \u5317\u4eac didn't, \u041c\u043e\u0441\u043a\u0432\u0430 \u0438 "
      "\u0391\u03b8\u03ae\u03bd\u03b1 did. ";
  atb::Encoding out;
  Texts mixed;
  json tokens = json::array();
  for (const std::string& sentence : sentences) {
    tokenizer.encode(sentence, kMixed, out);
    tokens.push_back(out.size());
    std::string& text = mixed.emplace_back();
    do {
      text.append(accents).append(sentence).append(" ");
      tokenizer.encode(text, kMixed + 1, out);
    } while (out.size() <= kMixed);
  }
  const json result = {{"ascii_tokens", tokens},
                       {"ascii_us", warm(tokenizer, sentences, kMixed)},
                       {"ascii_cold_us", cold(tokenizer, sentences, kMixed)},
                       {"mixed_tokens", kMixed},
                       {"mixed_us", warm(tokenizer, mixed, kMixed)},
                       {"mixed_cold_us", cold(tokenizer, mixed, kMixed)}};
  std::cout << result.dump() << '\n';
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3 && std::string(arguments[1]) == "--bench") return bench(arguments[2]);
  std::ios::sync_with_stdio(false);
  Shell shell;
  for (std::string line; std::getline(std::cin, line);) std::cout << shell.answer(line) << '\n';
}
