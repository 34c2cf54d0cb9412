#include <boost/test/unit_test.hpp>
#include <map>
#include <random>
#include <string>

#include "tokenizer/trie.h"

namespace {

using atb::Trie;

std::string random_word(std::mt19937& rng, std::size_t most) {
  std::string word(rng() % (most + 1), '\0');
  for (char& c : word) c = "ab\x01\xff\0z"[rng() % 6];
  return word;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(trie)

BOOST_AUTO_TEST_CASE(two_sets_find_what_maps_find) {
  std::mt19937 rng(7);
  for (int round = 0; round < 20; ++round) {
    Trie trie;
    std::map<std::string, std::int32_t> sets[2];
    Trie::Node roots[2];
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 400; ++j) sets[i].try_emplace(random_word(rng, 7), j);
      roots[i] = trie.add({sets[i].begin(), sets[i].end()});
    }
    for (int j = 0; j < 4000; ++j) {
      const std::string text = random_word(rng, 12);
      for (int i = 0; i < 2; ++i) {
        Trie::Match wanted;
        for (std::size_t size = 1; size <= text.size(); ++size)
          if (const auto found = sets[i].find(text.substr(0, size)); found != sets[i].end())
            wanted = {found->second, size};
        const Trie::Match match = trie.longest(roots[i], text.data(), text.data() + text.size());
        BOOST_REQUIRE(match.size == wanted.size);
        BOOST_REQUIRE(match.value == wanted.value);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(an_empty_set_holds_nothing) {
  Trie trie;
  const std::string text = "a";
  BOOST_TEST(trie.longest(trie.add({}), text.data(), text.data() + 1).size == 0U);
  BOOST_TEST(trie.longest(trie.add({{"", 3}}), text.data(), text.data() + 1).size == 0U);
}

BOOST_AUTO_TEST_CASE(long_words_need_no_deep_stack) {
  Trie trie;
  const std::string word(1 << 20, 'a');
  const Trie::Node root = trie.add({{word, 5}});
  BOOST_TEST(trie.longest(root, word.data(), word.data() + word.size()).value == 5);
}

BOOST_AUTO_TEST_SUITE_END()
