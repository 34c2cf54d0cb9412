// What a tokenizer.json may say, and what is refused by name.
#define BOOST_TEST_MODULE tokenizer
#include <boost/test/included/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>

#include "atb/error.h"
#include "atb/tokenizer.h"
#include "scratch.h"
#include "tokenizer_json.h"

namespace {

using atb::Encoding;
using atb::Tokenizer;
using Ids = std::vector<std::int32_t>;
using Change = std::function<void(TokenizerJson&)>;

std::string refusal(const std::string& text) {
  try {
    Tokenizer::from_json(text);
    return "it was taken";
  } catch (const atb::Error& error) {
    return error.kind() == atb::Kind::bundle ? error.what() : std::string("of another kind: ") + error.what();
  }
}

std::string refusal(const Change& change) {
  TokenizerJson json;
  change(json);
  return refusal(json.text());
}

void check_names(const std::string& message, std::string_view part) {
  BOOST_TEST(message.find(part) != std::string::npos, message << " does not say " << part);
}

Tokenizer made(const Change& change) {
  TokenizerJson json;
  change(json);
  return Tokenizer::from_json(json.text());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(files)

BOOST_AUTO_TEST_CASE(other_components_are_refused_by_name) {
  for (const char* type : {"NFC", "Sequence", "Lowercase", "Precompiled", "Bert"})
    check_names(refusal([&](auto& x) { x.normalizer = R"({"type":")" + std::string(type) + "\"}"; }),
                "normalizer is of type " + std::string(type) + "; only BertNormalizer");
  check_names(refusal([](auto& x) { x.splitter = R"({"type":"ByteLevel"})"; }), "pre_tokenizer is of type ByteLevel");
  check_names(refusal([](auto& x) { x.splitter = "null"; }), "pre_tokenizer is missing");
  check_names(refusal([](auto& x) { x.model = R"({"type":"BPE","vocab":{},"merges":[]})"; }), "model is of type BPE");
  check_names(refusal([](auto& x) { x.model = R"({"type":"Unigram","vocab":[]})"; }), "model is of type Unigram");
  check_names(refusal([](auto& x) { x.post_processor = R"({"type":"RobertaProcessing"})"; }),
              "post_processor is of type RobertaProcessing");
}

BOOST_AUTO_TEST_CASE(unknown_settings_are_refused_by_name) {
  check_names(refusal([](auto& x) { x.lower = R"(true,"fold":true)"; }), "normalizer has \"fold\"");
  check_names(refusal([](auto& x) { x.most = R"(100,"dropout":0.1)"; }), "model has \"dropout\"");
  check_names(refusal([](auto& x) { x.added = R"({"id":4,"content":"x","regex":true})"; }),
              "added_tokens[0] has \"regex\"");
  check_names(refusal([](auto& x) {
                x.post_processor = R"({"type":"BertProcessing","sep":["a",3],"cls":["b",2],"trim_offsets":true})";
              }),
              "post_processor has \"trim_offsets\"");
}

BOOST_AUTO_TEST_CASE(values_are_what_they_must_be) {
  check_names(refusal([](auto& x) { x.clean = "1"; }), "normalizer.clean_text must be true or false");
  check_names(refusal([](auto& x) { x.strip = "\"yes\""; }), "normalizer.strip_accents must be");
  check_names(refusal([](auto& x) { x.most = "-1"; }), "model.max_input_chars_per_word must be a whole number");
  check_names(refusal([](auto& x) { x.most = "1.5"; }), "model.max_input_chars_per_word must be a whole number");
  check_names(refusal([](auto& x) { x.words = R"("a":4294967295)"; }), "model.vocab[\"a\"] must be a whole number");
  check_names(refusal([](auto& x) { x.unknown = "\"<unk>\""; }), "model.unk_token is \"<unk>\"");
  check_names(refusal([](auto& x) { x.words = R"("a":5,"a":6)"; }), "'a' is there twice");
  check_names(refusal([](auto& x) { x.padding = R"({"pad_id":-1})"; }), "padding.pad_id");
  check_names(refusal([](auto& x) { x.added = added_token("X", "normalized") + "," + added_token("x", "normalized"); }),
              "are the same once normalized");
  check_names(refusal([](auto& x) { x.added = added_token("\u0301", "normalized"); }), "is empty once normalized");
  for (const char* text : {"", "{", "[]", "null", "{}", "\xff", R"({"model":{}})"})
    check_names(refusal(text), "tokenizer.json: ");
  check_names(refusal(std::string(100000, '[')), "levels deep");
}

BOOST_AUTO_TEST_CASE(templates_are_any_order_of_texts_and_tokens) {
  const auto of = [](std::string_view single, std::string_view pair) {
    return [=](TokenizerJson& x) {
      x.post_processor = R"({"type":"TemplateProcessing","single":[)" + std::string(single) + R"(],"pair":[)" +
                         std::string(pair) +
                         R"(],"special_tokens":{"<s>":{"id":"<s>","ids":[2,4],"tokens":["a","b"]}}})";
    };
  };
  const std::string a = R"({"Sequence":{"id":"A","type_id":0}})";
  const std::string b = R"({"Sequence":{"id":"B","type_id":7}})";
  const std::string s = R"({"SpecialToken":{"id":"<s>","type_id":3}})";
  Encoding out;
  const Tokenizer tokenizer = made(of(a + "," + s, b + "," + s + "," + a));
  tokenizer.encode("a a", 3, out);
  BOOST_TEST(out.ids == (Ids{5, 2, 4}));
  tokenizer.encode("a", "b", 9, out);
  BOOST_TEST(out.ids == (Ids{6, 2, 4, 5}));
  BOOST_TEST(out.types == (std::vector<std::uint8_t>{7, 3, 3, 0}));
  check_names(refusal(of(b, b)), "post_processor.single uses sequence B");
  check_names(refusal(of(a, a + "," + a)), "post_processor.pair uses a sequence twice");
  check_names(refusal(of(a, R"({"SpecialToken":{"id":"</s>","type_id":0}})")), "special_tokens has no \"</s>\"");
  check_names(refusal(of(a, R"({"Sequence":{"id":"C","type_id":0}})")), "sequences are A and B");
}

BOOST_AUTO_TEST_CASE(prefixes_may_be_anything) {
  for (const auto& [prefix, text] : {std::pair{"\"\"", "aab"}, {"\"@\"", "aab"}, {"\"a\"", "ab"}}) {
    const Tokenizer tokenizer = made([&](auto& x) {
      x.prefix = prefix;
      x.words = R"("a":5,"b":6,"@a":7,"@b":8)";
      x.post_processor = "null";
    });
    Encoding out;
    tokenizer.encode(text, 9, out);
    const Ids wanted = text == std::string("ab")        ? Ids{1}
                       : prefix == std::string("\"@\"") ? Ids{5, 7, 8}
                                                        : Ids{5, 5, 6};
    BOOST_TEST(out.ids == wanted);
  }
}

BOOST_AUTO_TEST_CASE(padding_is_named_or_found) {
  BOOST_TEST(made([](auto&) {}).pad_id() == 0);
  BOOST_TEST(made([](auto& x) { x.padding = R"({"pad_id":5})"; }).pad_id() == 5);
  BOOST_TEST(made([](auto& x) { x.words = R"("z":99)"; }).vocabulary_size() == 100U);
  const std::string text = TokenizerJson{}.text();
  std::string other = text;
  other.replace(other.find("[PAD]"), 5, "[DAP]");
  check_names(refusal(other), "no padding section and no token [PAD] or <pad>");
}

BOOST_AUTO_TEST_CASE(a_file_is_read_whole) {
  const atb::test::Scratch scratch;
  const std::filesystem::path file = scratch.path() / "tokenizer.json";
  std::ofstream(file) << TokenizerJson{}.text();
  Encoding out;
  Tokenizer::from_file(file).encode("a", 9, out);
  BOOST_TEST(out.ids == (Ids{2, 5, 3}));
  std::filesystem::remove(file);
  BOOST_CHECK_EXCEPTION(Tokenizer::from_file(file), atb::Error, [](const atb::Error& error) {
    return error.kind() == atb::Kind::bundle &&
           std::string_view(error.what()).find("cannot be read") != std::string_view::npos;
  });
}

BOOST_AUTO_TEST_SUITE_END()
