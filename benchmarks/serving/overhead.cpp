// What text to label costs without a server: the tokenizer alone and the engine alone, on one thread.
//
//     atb-overhead BUNDLE TEXTS [--engine LABEL] [--seconds 1]
//
// TEXTS has a text per line. The last line is JSON: the tokens and the tokenizer's median time of each text, and the
// median time of the engine over all of them in turn, as a server with one connection is asked for them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "atb/model.h"

namespace {

using atb::Clock;

double us(Clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); }

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Of blocks of calls: one is too short for the clock.
double tokenise_us(const atb::Tokenizer& tokenizer, const std::string& text, std::size_t most, atb::Encoding& out) {
  constexpr int calls = 32;
  std::vector<double> blocks;
  for (int block = 0; block < 41; ++block) {
    const auto begun = Clock::now();
    for (int i = 0; i < calls; ++i) {
      tokenizer.encode(text, most, out);
    }
    blocks.push_back(us(Clock::now() - begun) / calls);
  }
  return median(blocks);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  atb::ModelOptions options;
  options.rows = {1};
  options.batcher.workers = 1;
  double seconds = 1;
  for (std::size_t i = 2; i + 1 < words.size(); i += 2) {
    if (words[i] == "--engine") {
      options.engine = words[i + 1];
    } else if (words[i] == "--seconds") {
      seconds = std::strtod(words[i + 1].c_str(), nullptr);
    }
  }
  if (words.size() < 2 || words.size() % 2 != 0 || seconds <= 0) {
    std::fputs("usage: atb-overhead BUNDLE TEXTS [--engine LABEL] [--seconds 1]\n", stderr);
    return 2;
  }
  try {
    std::vector<std::string> texts;
    std::ifstream file(words[1]);
    for (std::string line; std::getline(file, line);) {
      texts.push_back(line);
    }
    if (texts.empty()) {
      throw std::runtime_error(words[1] + " holds no text");
    }
    const auto model = atb::Model::load(words[0], options);
    nlohmann::json rows = nlohmann::json::array();
    std::vector<atb::Encoding> encoded;
    for (const std::string& text : texts) {
      atb::Encoding tokens;
      const double took = tokenise_us(model->tokenizer(), text, model->max_length(), tokens);
      rows.push_back({{"tokens", tokens.size()}, {"tokenise_us", took}});
      encoded.push_back(tokens);
    }
    std::vector<double> times;
    const auto until = Clock::now() + std::chrono::duration<double>(seconds);
    const auto counted = Clock::now() + std::chrono::duration<double>(seconds / 5);
    while (times.empty() || Clock::now() < until) {
      for (const atb::Encoding& tokens : encoded) {
        const auto begun = Clock::now();
        const auto logits = model->logits(tokens);
        const auto ended = Clock::now();
        if (begun >= counted) {
          times.push_back(us(ended - begun));
        }
      }
    }
    const nlohmann::json document{{"texts", rows}, {"engine_runs", times.size()}, {"engine_p50_us", median(times)}};
    std::puts(document.dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "atb-overhead: %s\n", error.what());
    return 1;
  }
}
