// Tokens that are found in the text before it is split into words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/settings.h"
#include "tokenizer/trie.h"

namespace atb {

struct AddedToken {
  std::string text;  // to look for
  std::int32_t id = 0;
  AddedTokenSettings flags;
};

class AddedTokens {
 public:
  /// Throws `std::invalid_argument` for texts that are empty, too long to be looked for everywhere, or there twice.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  [[nodiscard]] bool empty() const noexcept { return tokens_.empty(); }

  /// Calls `gap(text)` and `token(id)` in the order of the text, until one answers false.
  ///
  /// What was matched is passed over even where a flag then rejects the match: `tokenizers` looks no second time.
  template <class Gap, class Token>
  void split(std::string_view text, Gap&& gap, Token&& token) const {
    std::size_t done = 0;
    for (std::size_t from = 0; const auto found = find(text, from);) {
      from = found->end;
      if (!flags_allow(text, *found)) continue;
      const auto [start, stop] = stripped(text, *found, done);
      if (done < start && !gap(text.substr(done, start - done))) return;
      if (start < stop && !token(tokens_[found->token].id)) return;
      done = stop;
    }
    if (done < text.size()) gap(text.substr(done));
  }

 private:
  struct Found {
    std::size_t start, end, token;
  };
  struct Span {
    std::size_t start, stop;
  };

  std::vector<AddedToken> tokens_;
  Trie trie_;
  Trie::Node root_ = 0;
  std::array<bool, 256> begins_{};  // bytes that a token begins with
  std::optional<char> sole_;        // the only such byte

  /// The leftmost match from `from` on, the longest there.
  [[nodiscard]] std::optional<Found> find(std::string_view text, std::size_t from) const noexcept {
    while (from < text.size()) {
      const char* const at = text.data() + from;
      if (sole_) {
        const void* const next = std::memchr(at, *sole_, text.size() - from);
        if (next == nullptr) return {};
        from = static_cast<std::size_t>(static_cast<const char*>(next) - text.data());
      } else if (!begins_[static_cast<std::uint8_t>(*at)]) {
        ++from;
        continue;
      }
      const Trie::Match match = trie_.longest(root_, text.data() + from, text.data() + text.size());
      if (match.size > 0) return Found{from, from + match.size, static_cast<std::size_t>(match.value)};
      ++from;
    }
    return {};
  }
  [[nodiscard]] bool flags_allow(std::string_view text, const Found& found) const noexcept;
  /// The match with the white space that its flags take; the left end no further than `done`.
  [[nodiscard]] Span stripped(std::string_view text, const Found& found, std::size_t done) const;
};

}  // namespace atb
