// Words to ids: the longest piece of the vocabulary first, then the longest of what is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/settings.h"
#include "tokenizer/trie.h"
#include "tokenizer/utf8.h"

namespace atb {

class WordPiece {
 public:
  /// Throws `std::length_error` for a vocabulary that is too large.
  explicit WordPiece(const WordPieceSettings& settings);

  /// Appends the ids of a word that is not empty: of its pieces, or the unknown one for all of it.
  void append(const char* word, const char* end, std::vector<std::int32_t>& ids) const {
    Trie::Match piece = trie_.longest(starts_, word, end);
    if (word + piece.size == end && piece.size <= max_characters_) [[likely]] {
      ids.push_back(piece.value);
      return;
    }
    append_pieces(word, end, piece, ids);
  }

 private:
  Trie trie_;
  Trie::Node starts_;  // pieces that begin a word
  Trie::Node inner_;   // pieces inside of one, without their prefix
  std::int32_t unknown_ = 0;
  std::uint64_t max_characters_;

  void append_pieces(const char* word, const char* end, Trie::Match piece, std::vector<std::int32_t>& ids) const;
};

}  // namespace atb
