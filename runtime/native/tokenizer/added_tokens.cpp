#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <stdexcept>

#include "atb/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace atb {
namespace {

constexpr std::size_t kMostBytes = 512;  // each place of a text may be compared with all of a token

bool is(char32_t code, unicode::Flag flag) noexcept { return (unicode::facts(code).flags & flag) != 0; }

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::sort(tokens_, {}, &AddedToken::text);
  Trie::Entries entries;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    const std::string name = "added_tokens: \"" + token.flags.content.substr(0, 40) + "\"";
    if (token.text.empty()) throw std::invalid_argument(name + " is empty once normalized, so it is in no text");
    if (token.text.size() > kMostBytes)
      throw std::invalid_argument(name + "... has " + std::to_string(token.text.size()) + " bytes, more than " +
                                  std::to_string(kMostBytes));
    if (i > 0 && token.text == tokens_[i - 1].text)
      throw std::invalid_argument(name + " and \"" + tokens_[i - 1].flags.content +
                                  "\" are the same once normalized, and which id is meant is chance");
    entries.emplace_back(token.text, static_cast<std::int32_t>(i));
    begins_[static_cast<std::uint8_t>(token.text[0])] = true;
  }
  root_ = trie_.add(std::move(entries));
  if (std::ranges::count(begins_, true) == 1) sole_ = tokens_[0].text[0];
}

bool AddedTokens::flags_allow(std::string_view text, const Found& found) const noexcept {
  if (!tokens_[found.token].flags.single_word) return true;
  const char* left = text.data() + found.start;
  const char* right = text.data() + found.end;
  return (found.start == 0 || !is(utf8::previous(left), unicode::kWord)) &&
         (found.end == text.size() || !is(utf8::next(right), unicode::kWord));
}

AddedTokens::Span AddedTokens::stripped(std::string_view text, const Found& found, std::size_t done) const {
  const AddedTokenSettings& flags = tokens_[found.token].flags;
  Span span{found.start, found.end};
  if (flags.lstrip) {
    while (span.start > 0) {
      const char* at = text.data() + span.start;
      if (!is(utf8::previous(at), unicode::kSpace)) break;
      span.start = static_cast<std::size_t>(at - text.data());
    }
    span.start = std::max(span.start, done);
  }
  if (flags.rstrip) {
    while (span.stop < text.size()) {
      const char* at = text.data() + span.stop;
      if (!is(utf8::next(at), unicode::kSpace)) break;
      span.stop = static_cast<std::size_t>(at - text.data());
    }
  }
  if (span.start > span.stop)  // `tokenizers` panics here
    throw Error(Kind::invalid, "the tokenizer has no answer for this text: its added token \"" + flags.content +
                                   "\" lies in the white space that another one takes");
  return span;
}

}  // namespace atb
