// Any bytes as a tokenizer.json, and any bytes as texts for tokenizers of every kind.
//
//   tests/runtime/native/fuzz/corpus/tokenizer holds the seeds; run: fuzz_tokenizer -max_total_time=600 NEW CORPUS
#include "atb/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "atb/error.h"

namespace {

constexpr std::array<std::string_view, 8> kTexts = {"",
                                                    "A small text, [CLS] and [MASK]ed ones",
                                                    "Caf\u00e9 \u0130stanbul \u6771\u4eac \uac01 \u0b48\u3030",
                                                    "\u1d160\u302e\u302f\U0001d165\u0301a\U0001d160\u0323\U0001d16d",
                                                    "\u2028\u00a0\t\n\v\u0085 x \ufffd\u200b",
                                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                                    "Foo foo  FOO bar\u00e9 a_b <x>  <x> ",
                                                    "## #a ##a [UNK][UNK]"};

std::string tokenizer_json(unsigned settings) {
  const auto flag = [&](unsigned bit) { return (settings >> bit & 1U) != 0 ? "true" : "false"; };
  std::string json = R"({"version":"1.0","added_tokens":[)";
  const char* const contents[] = {"[CLS]", "Foo", "<x>", "b\\u00e9", " ."};
  for (unsigned i = 0; i < std::size(contents); ++i)
    json += std::string(i == 0 ? "" : ",") + R"({"id":0,"special":true,"content":")" + contents[i] +
            R"(","single_word":)" + flag(i) + R"(,"lstrip":)" + flag(i + 1) + R"(,"rstrip":)" + flag(i + 2) +
            R"(,"normalized":)" + flag(i + 3) + "}";
  json += std::string(R"(],"normalizer":{"type":"BertNormalizer","clean_text":)") + flag(8) +
          R"(,"handle_chinese_chars":)" + flag(9) + R"(,"strip_accents":)" + flag(10) + R"(,"lowercase":)" + flag(11) +
          R"(},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":)";
  json += (settings >> 12 & 1U) != 0 ? R"({"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]})" : "null";
  json += R"(,"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":")";
  json += (settings >> 13 & 1U) != 0 ? "##" : "";
  json += R"(","max_input_chars_per_word":)" + std::to_string((settings >> 14 & 1U) != 0 ? 100 : 5) +
          R"(,"vocab":{"[PAD]":0,"[CLS]":1,"[SEP]":2,"[UNK]":3,"a":4,"##a":5,"b":6,"##b":7,"foo":8,"##o":9,"aa":10,)"
          R"("##aab":11,".":12,"\u6771":13,"e":14,"##e":15,"\u1100":16,"##\u1161":17,"##\u11a8":18,"i":19}}})";
  return json;
}

std::vector<atb::Tokenizer>& tokenizers() {
  static std::vector<atb::Tokenizer> of_all_kinds;
  return of_all_kinds;
}

void require(bool holds) {
  if (!holds) std::abort();
}

/// Encodes in several ways; what comes out is bounded and does not depend on how much is asked for.
void encode(const atb::Tokenizer& tokenizer, std::string_view text, std::string_view other, std::size_t length) {
  using Strategy = atb::Truncation::Strategy;
  atb::Encoding all;
  atb::Encoding cut;
  const auto sound = [&](const atb::Encoding& out) { require(out.ids.size() == out.types.size()); };
  try {
    tokenizer.encode(text, 1 << 20, all);
    sound(all);
    tokenizer.encode(text, length, cut);
    sound(cut);
    require(cut.size() <= length);
    require(cut.size() == std::min(all.size(), length));
    tokenizer.encode(text, other, length, cut);
    sound(cut);
    require(cut.size() <= length);
    tokenizer.encode(text, other, length, cut, {Strategy::only_second, true});
    require(cut.size() <= length);
  } catch (const atb::Error& error) {
    require(error.kind() == atb::Kind::invalid);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {  // not while the first input's time is taken
  for (unsigned i = 0; i < 32; ++i)
    tokenizers().push_back(atb::Tokenizer::from_json(tokenizer_json(i * 0x9E37U + (i << 8))));
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (size > 0 && bytes[0] == '{') {
    try {
      const atb::Tokenizer tokenizer = atb::Tokenizer::from_json(bytes);
      for (std::size_t i = 0; i < kTexts.size(); ++i) encode(tokenizer, kTexts[i], kTexts[(i + 3) % kTexts.size()], 12);
    } catch (const atb::Error& error) {
      require(error.kind() == atb::Kind::bundle);
    }
  } else if (size > 2) {
    const std::string_view texts = bytes.substr(2);
    const std::size_t middle = texts.size() / 2;
    encode(tokenizers()[data[0] % tokenizers().size()], texts, texts.substr(middle), data[1]);
  }
  return 0;
}
