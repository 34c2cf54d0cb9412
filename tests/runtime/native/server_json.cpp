#define BOOST_TEST_MODULE server
#include <boost/test/included/unit_test.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "server/json_reader.h"
#include "server/json_writer.h"

namespace atb {
namespace {

bool reads(const std::string& text) {
  try {
    JsonReader json(text);
    json.skip();
    json.end();
    return true;
  } catch (const JsonError&) {
    return false;
  }
}

BOOST_AUTO_TEST_SUITE(json)

BOOST_AUTO_TEST_CASE(takes_and_refuses_what_another_reader_does) {
  const std::vector<std::string> documents{"{}",
                                           "[]",
                                           "null",
                                           "true",
                                           "false",
                                           "0",
                                           "-0",
                                           "-1.5e+10",
                                           "1E5",
                                           "\"\"",
                                           "[1,2,[3]]",
                                           R"({"a":{"b":[null]}})",
                                           "",
                                           " ",
                                           "{",
                                           "[",
                                           "]",
                                           "}",
                                           "[1,]",
                                           "[,1]",
                                           "{,}",
                                           R"({"a"})",
                                           R"({"a":})",
                                           R"({"a":1,})",
                                           "{1:2}",
                                           "01",
                                           "+1",
                                           ".5",
                                           "1.",
                                           "1e",
                                           "-",
                                           "tru",
                                           "nul",
                                           "True",
                                           "NaN",
                                           "\"",
                                           "\"\\\"",
                                           R"("\x")",
                                           R"("\u12")",
                                           R"("\ud800")",
                                           R"("\udc00")",
                                           R"("\ud83d\ude00")",
                                           R"("\ud800\u0041")",
                                           "\"\n\"",
                                           "\"\t\"",
                                           std::string("\"\0\"", 3),
                                           "\"\x7f\"",
                                           "\"\xc3\xa9\"",
                                           "\"\xc3\"",
                                           "\"\xed\xa0\x80\"",
                                           "\"\xf4\x90\x80\x80\"",
                                           "\"\xc0\x80\"",
                                           "1 2",
                                           "{} x",
                                           " \t\r\n[ 1 , 2 ] \n",
                                           "\v1",
                                           R"({"a":1}{"b":2})",
                                           "[1 2]",
                                           R"({"a" 1})",
                                           "\"\xf0\x9f\x98\x80\"",
                                           "\xef\xbb\xbf{}x"};
  for (const auto& text : documents) {
    BOOST_TEST(reads(text) == nlohmann::json::accept(text), text);
  }
}

BOOST_AUTO_TEST_CASE(agrees_on_mutated_documents) {
  std::mt19937 random(7);
  const std::string seed =
      R"({"inputs":[{"name":"te\u00e4xt","shape":[1,-2],"data":[["a\n",true],null,1.5e3]}],"é":""})";
  const std::string alphabet = "{}[]:,\"\\/ue0129.-+tfn \n\xc3\xa9\xed\xa0";
  for (int i = 0; i < 20'000; ++i) {
    std::string text = seed;
    for (auto edits = random() % 3 + 1; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const char sign = alphabet[random() % alphabet.size()];
      random() % 3 == 0   ? void(text.erase(at, 1))
      : random() % 2 == 0 ? void(text[at] = sign)
                          : void(text.insert(at, 1, sign));
    }
    BOOST_TEST_REQUIRE(reads(text) == nlohmann::json::accept(text), text);
  }
}

BOOST_AUTO_TEST_CASE(reads_strings_as_another_reader_does) {
  for (const std::string text :
       {R"("plain")", R"("\"\\\/\b\f\n\r\t")", R"("a\u0041\u00e9\u20ac\ud83d\ude00z")", "\"é€😀\""}) {
    JsonReader json(text);
    BOOST_TEST(json.string("x") == nlohmann::json::parse(text).get<std::string>());
  }
}

BOOST_AUTO_TEST_CASE(keeps_every_string_that_it_answered) {
  const std::string text = R"(["a\n","b\n","c\n","d","e\n"])";
  JsonReader json(text);
  std::vector<std::string_view> seen;
  json.array("x", [&] { seen.push_back(json.string("y")); });
  BOOST_TEST(seen == (std::vector<std::string_view>{"a\n", "b\n", "c\n", "d", "e\n"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(bounds_depth) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  BOOST_TEST(reads(nested(JsonReader::most_depth)));
  BOOST_TEST(!reads(nested(JsonReader::most_depth + 1)));
  BOOST_TEST(!reads(std::string(1'000'000, '[')));
  BOOST_TEST(!reads(std::string(1'000'000, '{')));
}

BOOST_AUTO_TEST_CASE(tells_integers_from_other_numbers) {
  const auto integer = [](const std::string& text) { return JsonReader(text).integer("x"); };
  BOOST_TEST(integer("-9223372036854775808") == std::numeric_limits<std::int64_t>::min());
  BOOST_TEST(integer("9223372036854775807") == std::numeric_limits<std::int64_t>::max());
  for (const char* text : {"9223372036854775808", "1.0", "1e3", "\"1\"", "true", "null", "[]"}) {
    BOOST_CHECK_THROW(integer(text), Error);
  }
}

BOOST_AUTO_TEST_CASE(writes_what_reads_back) {
  std::mt19937 random(11);
  for (int i = 0; i < 2'000; ++i) {
    std::string text;
    for (auto size = random() % 20; size > 0; --size) {
      text += static_cast<char>(random() % 128);
    }
    text += random() % 2 == 0 ? "é😀" : "";
    std::string out;
    write_string(out, text);
    BOOST_TEST_REQUIRE(nlohmann::json::parse(out).get<std::string>() == text);
    const auto bits = static_cast<std::uint32_t>(random());
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    if (std::isfinite(value)) {
      out.clear();
      write_number(out, value);
      BOOST_TEST_REQUIRE(static_cast<float>(nlohmann::json::parse(out).get<double>()) == value, out);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb
