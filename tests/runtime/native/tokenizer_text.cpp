#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "atb/error.h"
#include "atb/tokenizer.h"
#include "tokenizer_json.h"

namespace {

using atb::Encoding;
using atb::Kind;
using atb::Tokenizer;
using Ids = std::vector<std::int32_t>;

constexpr std::size_t kLong = 1000;

Ids ids(const Tokenizer& tokenizer, std::string_view text, std::size_t length = kLong) {
  Encoding out;
  tokenizer.encode(text, length, out);
  return out.ids;
}

Tokenizer plain(std::string_view words, TokenizerJson json = {}) {
  json.words = words;
  json.post_processor = "null";
  return Tokenizer::from_json(json.text());
}

auto of_kind(Kind kind, std::string_view part = "") {
  return [=](const atb::Error& error) {
    return error.kind() == kind && std::string_view(error.what()).find(part) != std::string_view::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_SUITE(words)

BOOST_AUTO_TEST_CASE(the_longest_piece_comes_first) {
  const Tokenizer tokenizer = plain(R"("un":5,"##aff":6,"##able":7,"##a":8,"u":9,"##ffable":10)");
  BOOST_TEST(ids(tokenizer, "unaffable") == (Ids{5, 6, 7}));
  BOOST_TEST(ids(tokenizer, "unaa") == (Ids{5, 8, 8}));
  BOOST_TEST(ids(tokenizer, "u un") == (Ids{9, 5}));
  BOOST_TEST(ids(tokenizer, "unaffab") == (Ids{1}));  // what has no end is unknown as a whole
}

BOOST_AUTO_TEST_CASE(punctuation_is_a_word) {
  const Tokenizer tokenizer = plain(R"("a":5,"!":6,"##!":7,"##a":8)");
  BOOST_TEST(ids(tokenizer, "a!!a") == (Ids{5, 6, 6, 5}));
}

BOOST_AUTO_TEST_CASE(a_word_has_so_many_characters_not_bytes) {
  TokenizerJson json;
  json.most = "3";
  json.strip = "false";
  const Tokenizer tokenizer = plain(R"("\u00e9":5,"##\u00e9":6,"aaaa":7,"aaa":8)", json);
  BOOST_TEST(ids(tokenizer, "\u00e9\u00e9\u00e9") == (Ids{5, 6, 6}));
  BOOST_TEST(ids(tokenizer, "\u00e9\u00e9\u00e9\u00e9") == (Ids{1}));
  BOOST_TEST(ids(tokenizer, "aaa aaaa") == (Ids{8, 1}));
}

BOOST_AUTO_TEST_CASE(steps_of_the_normalizer_follow_their_switches) {
  const std::string_view words = R"("e":5,"E":6,"\u00e9":7,"\u00c9":8,"\u6771":9,"##\u6771":10,"##e":11)";
  const auto with = [&](const char* clean, const char* chinese, const char* strip, const char* lower) {
    TokenizerJson json;
    json.clean = clean;
    json.chinese = chinese;
    json.strip = strip;
    json.lower = lower;
    return plain(words, json);
  };
  BOOST_TEST(ids(with("true", "true", "null", "true"), "\u00c9") == (Ids{5}));
  BOOST_TEST(ids(with("true", "true", "null", "false"), "\u00c9") == (Ids{8}));
  BOOST_TEST(ids(with("true", "true", "false", "true"), "\u00c9") == (Ids{7}));
  BOOST_TEST(ids(with("true", "true", "true", "false"), "\u00c9") == (Ids{6}));
  BOOST_TEST(ids(with("true", "true", "null", "true"), "e\u6771\u6771e") == (Ids{5, 9, 9, 5}));
  BOOST_TEST(ids(with("true", "false", "null", "true"), "e\u6771\u6771e") == (Ids{5, 10, 10, 11}));
  BOOST_TEST(ids(with("true", "true", "null", "true"), "e\u200be") == (Ids{5, 11}));
  BOOST_TEST(ids(with("false", "true", "null", "true"), "e\u200be") == (Ids{1}));
}

BOOST_AUTO_TEST_CASE(what_combines_and_stays_is_put_in_order) {
  // Musical marks: a stem of class 216 and a dot of class 226 are no accents; an acute accent of class 230 is dropped.
  const Tokenizer tokenizer = plain(R"("a":5,"##\ud834\udd65":6,"##\ud834\udd6d":7)");
  BOOST_TEST(ids(tokenizer, "a\U0001d16d\U0001d165") == (Ids{5, 6, 7}));
  BOOST_TEST(ids(tokenizer, "a\U0001d16d\u0301\U0001d165") == (Ids{5, 6, 7}));
  BOOST_TEST(ids(tokenizer, "a\U0001d16d\u0c46\U0001d165") == (Ids{5, 7, 6}));  // a dropped vowel sign keeps them apart
}

BOOST_AUTO_TEST_CASE(hangul_falls_into_letters_where_accents_are_stripped) {
  const Tokenizer tokenizer = plain(R"("\u1100":5,"##\u1161":6,"##\u11a8":7)");
  BOOST_TEST(ids(tokenizer, "\uac01 \uac00") == (Ids{5, 6, 7, 5, 6}));
}

BOOST_AUTO_TEST_CASE(empty_texts_have_special_tokens_only) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  for (const char* text : {"", " ", "\t\r\n", "\u200b\u0301"}) BOOST_TEST(ids(tokenizer, text) == (Ids{2, 3}));
}

BOOST_AUTO_TEST_CASE(bytes_that_are_no_utf8_are_refused_wherever_they_are) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  Encoding out;
  for (const std::string bad : {"\x80", "\xc0\x80", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe6\x9d",
                                "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xff",
                                "\xe6\x9d"
                                "A",
                                "\xf0\x9f\x91"}) {
    for (const std::string before : {"", "a", "1234567", "a long text of words, and then some "})
      BOOST_CHECK_EXCEPTION(tokenizer.encode(before + bad, 4, out), atb::Error,
                            of_kind(Kind::invalid, "byte " + std::to_string(before.size())));
    BOOST_CHECK_EXCEPTION(tokenizer.encode("a", bad, 8, out), atb::Error, of_kind(Kind::invalid));
  }
  BOOST_TEST(ids(tokenizer, "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80\xc2\x80").size() >= 2U);
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE(added)

BOOST_AUTO_TEST_CASE(the_longest_is_found_in_the_text_as_it_comes) {
  TokenizerJson json;
  json.added = added_token("[MASK]") + "," + added_token("[MASK]s");
  const Tokenizer tokenizer = plain(R"("a":5)", json);
  BOOST_TEST(ids(tokenizer, "a[MASK]a") == (Ids{5, 4, 5}));
  BOOST_TEST(ids(tokenizer, "[MASK]s") == (Ids{6}));  // one that the vocabulary lacks has the next id
  BOOST_TEST(ids(tokenizer, "[mask]") == (Ids{1, 1, 1}));
}

BOOST_AUTO_TEST_CASE(normalized_ones_are_found_in_the_normalized_text) {
  TokenizerJson json;
  json.added = added_token("F\u00f6o", "normalized");
  const Tokenizer tokenizer = plain(R"("a":5)", json);
  BOOST_TEST(ids(tokenizer, "a FOO fo\u0308o F\u00f6\u200bo") == (Ids{5, 6, 6, 6}));
}

BOOST_AUTO_TEST_CASE(single_words_have_no_letter_beside_them) {
  TokenizerJson json;
  json.added = added_token("x", "single_word");
  const Tokenizer tokenizer = plain(R"("a":5,"-":6,"xa":7,"ax":8)", json);
  BOOST_TEST(ids(tokenizer, "x ax xa -x- x") == (Ids{9, 8, 7, 6, 9, 6, 9}));
}

BOOST_AUTO_TEST_CASE(what_is_rejected_is_not_looked_at_again) {
  TokenizerJson json;
  json.added = added_token("xx", "single_word") + "," + added_token("x");
  const Tokenizer tokenizer = plain(R"("axx":5)", json);
  BOOST_TEST(ids(tokenizer, "axx") == (Ids{5}));
  BOOST_TEST(ids(tokenizer, "axxx") == (Ids{5, 7}));
}

BOOST_AUTO_TEST_CASE(white_space_goes_to_the_first_that_takes_it) {
  TokenizerJson json;
  json.added = added_token("x", "rstrip") + "," + added_token(" ", "lstrip");
  const Tokenizer tokenizer = plain(R"("a":5)", json);
  BOOST_TEST(ids(tokenizer, "a  a") == (Ids{5, 7, 7, 5}));
  BOOST_TEST(ids(tokenizer, "x a") == (Ids{6, 5}));  // nothing is left of the blank
  Encoding out;
  BOOST_CHECK_EXCEPTION(tokenizer.encode("x  a", kLong, out), atb::Error, of_kind(Kind::invalid, "white space"));
}

BOOST_AUTO_TEST_SUITE_END()
BOOST_AUTO_TEST_SUITE(lengths)

BOOST_AUTO_TEST_CASE(special_tokens_count) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  BOOST_TEST(ids(tokenizer, "a a a a", 4) == (Ids{2, 5, 5, 3}));
  BOOST_TEST(ids(tokenizer, "a a a a", 2) == (Ids{2, 3}));
  Encoding out;
  BOOST_CHECK_EXCEPTION(tokenizer.encode("a", 1, out), atb::Error, of_kind(Kind::invalid, "2 special"));
  BOOST_CHECK_EXCEPTION(tokenizer.encode("a", "a", 2, out), atb::Error, of_kind(Kind::invalid, "3 special"));
}

BOOST_AUTO_TEST_CASE(a_shorter_length_is_a_prefix_but_for_the_end) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  const std::string text = "a b, ab [MASK] \u00e9 unknown aab \u6771 b b a.";
  const Ids all = ids(tokenizer, text);
  for (std::size_t length = 2; length < all.size() + 3; ++length) {
    const Ids cut = ids(tokenizer, text, length);
    BOOST_TEST(cut.size() == std::min(length, all.size()));
    BOOST_TEST(cut.back() == 3);
    BOOST_TEST(std::equal(cut.begin(), cut.end() - 1, all.begin()));
  }
}

BOOST_AUTO_TEST_CASE(of_a_pair_the_longer_one_is_cut_first) {
  using Strategy = atb::Truncation::Strategy;
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  Encoding out;
  const auto sizes = [&](std::size_t first, std::size_t second, std::size_t room, atb::Truncation how = {}) {
    std::string a;
    std::string b;
    for (std::size_t i = 0; i < first; ++i) a += "a ";
    for (std::size_t i = 0; i < second; ++i) b += "b ";
    tokenizer.encode(a, b, room + 3, out, how);
    return std::pair(std::ranges::count(out.ids, 5), std::ranges::count(out.ids, 6));
  };
  BOOST_TEST((sizes(2, 9, 8) == std::pair{2L, 6L}));
  BOOST_TEST((sizes(9, 2, 8) == std::pair{6L, 2L}));
  BOOST_TEST((sizes(9, 8, 7) == std::pair{4L, 3L}));
  BOOST_TEST((sizes(8, 9, 7) == std::pair{3L, 4L}));
  BOOST_TEST((sizes(9, 9, 7) == std::pair{3L, 4L}));
  BOOST_TEST((sizes(3, 4, 7) == std::pair{3L, 4L}));
  BOOST_TEST((sizes(9, 2, 5, {Strategy::only_first}) == std::pair{3L, 2L}));
  BOOST_TEST((sizes(2, 9, 5, {Strategy::only_second}) == std::pair{2L, 3L}));
  BOOST_CHECK_EXCEPTION(sizes(9, 5, 5, {Strategy::only_first}), atb::Error, of_kind(Kind::invalid));
}

BOOST_AUTO_TEST_CASE(types_say_which_text) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  Encoding out;
  tokenizer.encode("a", "b b", kLong, out);
  BOOST_TEST(out.ids == (Ids{2, 5, 3, 6, 6, 3}));
  BOOST_TEST(out.types == (std::vector<std::uint8_t>{0, 0, 0, 1, 1, 1}));
}

BOOST_AUTO_TEST_CASE(the_start_is_cut_where_that_is_asked_for) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  Encoding out;
  tokenizer.encode("a a b", 4, out, {.left = true});
  BOOST_TEST(out.ids == (Ids{2, 5, 6, 3}));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_CASE(threads_share_a_tokenizer) {
  const Tokenizer tokenizer = Tokenizer::from_json(TokenizerJson{}.text());
  const std::vector<std::string> texts = {"a b ab", "[MASK] a", "\u00e9\u6771 b", std::string(5000, 'a'), ""};
  std::vector<Ids> wanted;
  for (const std::string& text : texts) wanted.push_back(ids(tokenizer, text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < wrong.size(); ++thread)
    threads.emplace_back([&, thread] {
      for (std::size_t i = 0; i < 500; ++i)
        wrong[thread] += ids(tokenizer, texts[(i + thread) % texts.size()]) != wanted[(i + thread) % texts.size()];
    });
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(wrong == std::vector<int>(4));
}
