// What a tokenizer.json says, as far as ids depend on it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace atb {

/// BertNormalizer; all off where the file has none.
struct NormalizerSettings {
  bool clean = false;    // drop control characters, make white space blanks
  bool chinese = false;  // blanks around ideographs
  bool strip = false;    // decompose, drop accents
  bool lower = false;
};

struct WordPieceSettings {
  std::string unknown;
  std::string prefix;  // of pieces inside a word
  std::uint64_t max_characters = 0;
  std::vector<std::pair<std::string, std::int32_t>> vocabulary;
};

struct AddedTokenSettings {
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;

  bool operator==(const AddedTokenSettings&) const = default;
};

/// A part of the answer: a text's tokens, or special ones.
struct Piece {
  enum class Of : std::uint8_t { first, second, special };
  Of of = Of::special;
  std::vector<std::int32_t> ids;  // of special tokens
  std::uint8_t type = 0;
};

struct Settings {
  NormalizerSettings normalizer;
  WordPieceSettings model;
  std::vector<AddedTokenSettings> added;  // in the file's order
  std::vector<Piece> single;
  std::vector<Piece> pair;
  std::int32_t pad_id = -1;  // of the padding section; below 0 where there is none
};

/// Throws `std::invalid_argument` naming the setting. Sections that a caller of `Tokenizer` decides about (truncation,
/// the rest of padding) and those that only matter for decoding are not looked at.
Settings parse_settings(std::string_view json);

}  // namespace atb
