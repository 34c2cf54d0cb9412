#include "tokenizer/word_piece.h"

namespace atb {

WordPiece::WordPiece(const WordPieceSettings& settings) : max_characters_(settings.max_characters) {
  Trie::Entries starts;
  Trie::Entries inner;
  for (const auto& [text, id] : settings.vocabulary) {
    const std::string_view word = text;
    starts.emplace_back(word, id);  // a word may itself begin with what is the prefix
    if (word.starts_with(settings.prefix)) inner.emplace_back(word.substr(settings.prefix.size()), id);
    if (word == settings.unknown) unknown_ = id;
  }
  starts_ = trie_.add(std::move(starts));
  inner_ = trie_.add(std::move(inner));
}

void WordPiece::append_pieces(const char* word, const char* end, Trie::Match piece,
                              std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  const auto size = static_cast<std::size_t>(end - word);
  bool known = size <= max_characters_ || utf8::characters(word, end) <= max_characters_;
  for (const char* at = word; known && at != end; piece = trie_.longest(inner_, at, end)) {
    known = piece.size > 0;
    ids.push_back(piece.value);
    at += piece.size;
  }
  if (known) return;
  ids.resize(before);
  ids.push_back(unknown_);
}

}  // namespace atb
