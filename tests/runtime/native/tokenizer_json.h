// A small tokenizer.json, any part of which a test may change.
#pragma once

#include <string>
#include <string_view>

/// [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, and the words.
struct TokenizerJson {
  std::string words = R"("a":5,"b":6,"##b":7)";
  std::string added = R"({"id":4,"content":"[MASK]","single_word":false,"lstrip":false,"rstrip":false,)"
                      R"("normalized":false,"special":true})";
  std::string clean = "true";
  std::string chinese = "true";
  std::string strip = "null";
  std::string lower = "true";
  std::string prefix = "\"##\"";
  std::string most = "100";
  std::string unknown = "\"[UNK]\"";
  std::string splitter = R"({"type":"BertPreTokenizer"})";
  std::string post_processor = R"({"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]})";
  std::string padding = "null";
  std::string normalizer;  // in place of BertNormalizer
  std::string model;       // in place of WordPiece

  [[nodiscard]] std::string text() const {
    const std::string bert = R"({"type":"BertNormalizer","clean_text":)" + clean + R"(,"handle_chinese_chars":)" +
                             chinese + R"(,"strip_accents":)" + strip + R"(,"lowercase":)" + lower + "}";
    const std::string pieces = R"({"type":"WordPiece","unk_token":)" + unknown + R"(,"continuing_subword_prefix":)" +
                               prefix + R"(,"max_input_chars_per_word":)" + most +
                               R"(,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4)" +
                               (words.empty() ? "" : ",") + words + "}}";
    return R"({"version":"1.0","truncation":null,"padding":)" + padding + R"(,"added_tokens":[)" + added +
           R"(],"normalizer":)" + (normalizer.empty() ? bert : normalizer) + R"(,"pre_tokenizer":)" + splitter +
           R"(,"post_processor":)" + post_processor + R"(,"decoder":null,"model":)" + (model.empty() ? pieces : model) +
           "}";
  }
};

/// With one flag set, or none.
inline std::string added_token(std::string_view content, std::string_view flag = "") {
  const auto set = [&](std::string_view name) {
    return "\"" + std::string(name) + "\":" + (name == flag ? "true" : "false");
  };
  return R"({"id":0,"content":")" + std::string(content) + R"(","special":false,)" + set("single_word") + "," +
         set("lstrip") + "," + set("rstrip") + "," + set("normalized") + "}";
}
