// JSON as Python writes it: what a manifest's own hash is computed over.
#define BOOST_TEST_MODULE bundle
#include <boost/test/included/unit_test.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "bundle/json.h"
#include "bundle/python_number.h"
#include "bundle/sha256.h"

namespace json = atb::json;

BOOST_AUTO_TEST_CASE(numbers_are_written_as_python_writes_them) {
  // json.dumps(json.loads(x)) of Python 3.11
  const std::pair<const char*, const char*> cases[] = {
      {"0", "0"},
      {"-0", "0"},
      {"-0.0", "-0.0"},
      {"0.0", "0.0"},
      {"1.0", "1.0"},
      {"1.00", "1.0"},
      {"1e2", "100.0"},
      {"1E+2", "100.0"},
      {"0.1", "0.1"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"3.186842254765482e-07", "3.186842254765482e-07"},
      {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},
      {"1.5e300", "1.5e+300"},
      {"123456789012345680.0", "1.2345678901234568e+17"},
      {"5e-324", "5e-324"},
      {"1e-400", "0.0"},
      {"-2.5", "-2.5"},
      {"1234.5678", "1234.5678"},
      {"0.012345", "0.012345"},
      {"100000000000000000000000", "100000000000000000000000"},
      {"-9223372036854775809", "-9223372036854775809"},
      {"2.2250738585072014e-308", "2.2250738585072014e-308"},
      {"9007199254740993.0", "9007199254740992.0"},
  };
  for (const auto& [literal, wanted] : cases) BOOST_TEST(atb::python_number(literal) == wanted);
  BOOST_TEST(atb::python_number("1e400").empty());
}

BOOST_AUTO_TEST_CASE(texts_are_written_in_ascii) {
  const std::string text =
      R"({"b":"\u00e9\ud83d\ude00\u007f\u0001\n\"\\\/\b\f\r\t","a":[1,[],{}],"\u20ac":null,"c":[true,false]})";
  const json::Node node = json::parse(text);
  BOOST_TEST(json::canonical(node) ==
             R"({"a":[1,[],{}],"b":"\u00e9\ud83d\ude00\u007f\u0001\n\"\\/\b\f\r\t","c":[true,false],"\u20ac":null})");
  BOOST_TEST(json::canonical(node) == nlohmann::json::parse(text).dump(-1, ' ', true));
  BOOST_TEST(json::canonical(node, "b") == R"({"a":[1,[],{}],"c":[true,false],"\u20ac":null})");
  BOOST_TEST(json::indented(json::parse(R"({"z":[1,{"y":[]}],"a":{}})")) ==
             "{\n  \"z\": [\n    1,\n    {\n      \"y\": []\n    }\n  ],\n  \"a\": {}\n}");
}

BOOST_AUTO_TEST_CASE(what_is_read_is_written_again) {
  const auto text = nlohmann::ordered_json::parse(R"({"b":{"x":[1,2,{"y":""}]},"a":-5,"c":[[[]]]})").dump(2);
  BOOST_TEST(json::indented(json::parse(text)) == text);
}

BOOST_AUTO_TEST_CASE(what_two_readers_may_read_differently_is_refused) {
  for (const char* text : {R"({"a":1,"b":2,"a":3})", R"([{"x":{"a":1,"\u0061":1}}])"})
    BOOST_CHECK_EXCEPTION(json::parse(text), std::invalid_argument, [](const auto& error) {
      return std::string(error.what()).find("'a' is there twice") != std::string::npos;
    });
  for (const char* text :
       {"", "{", "[1,]", "NaN", "[Infinity]", "1 2", "\"\\ud800\"", "\"\xff\"", "{\"a\" 1}", "[1e999]", "/* */1"})
    BOOST_CHECK_THROW(json::parse(text), std::invalid_argument);
  BOOST_CHECK_THROW(json::parse(std::string_view("{}\0{}", 5)), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(depth_is_bounded) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  BOOST_CHECK_NO_THROW(json::parse(nested(json::kDeepest)));
  BOOST_CHECK_THROW(json::parse(nested(json::kDeepest + 1)), std::invalid_argument);
  BOOST_CHECK_THROW(json::parse(std::string(1'000'000, '[')), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(a_whole_number_is_no_float_and_no_truth) {
  BOOST_TEST(json::parse("7").whole().value() == 7);
  BOOST_TEST(json::parse("-7").whole().value() == -7);
  for (const char* text : {"7.0", "true", "\"7\"", "null", "[7]", "18446744073709551616"})
    BOOST_TEST(!json::parse(text).whole().has_value());
}

BOOST_AUTO_TEST_CASE(sha256_is_that_of_the_standard) {  // FIPS 180-4
  BOOST_TEST(atb::sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  BOOST_TEST(atb::sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BOOST_TEST(atb::sha256_of(std::string(1'000'000, 'a')) ==
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
