// What `tokenizers` knows of a code point. The tables are its own answers (make_tables.py), not a Unicode database's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace atb::unicode {

inline constexpr char32_t kEnd = 0x110000;  // one past the last code point

enum Flag : std::uint8_t {
  kControl = 1,       // cleaning drops it
  kSpace = 2,         // splits words; cleaning makes it a blank
  kChinese = 4,       // gets a blank on either side
  kMark = 8,          // dropped with the accents
  kPunctuation = 16,  // a word of its own
  kWord = 32,         // \w of regular expressions, for added tokens that are single words
};

struct Facts {
  std::uint8_t flags;
  std::uint8_t order;  // canonical combining class: 0 keeps its place, and others sort by it
  std::int32_t lower;  // distance to the lower case
};

/// Code points from `first` to the next run's have the same facts.
struct Run {
  std::uint32_t first : 21;
  std::uint32_t kind : 11;
};

struct Tables {
  std::span<const Facts> kinds;
  std::span<const Run> runs;
  std::span<const char32_t> single;   // pairs
  std::span<const char32_t> several;  // code point, count, that many
  std::span<const char32_t> lower;    // the same
};

extern const char* const kTablesVersion;
Tables tables() noexcept;

/// By binary search: for rare questions, and for making faster tables.
Facts facts(char32_t code) noexcept;

/// Up to four code points.
struct Few {
  char32_t codes[4];
  std::size_t size = 0;

  void push(char32_t code) noexcept { codes[size++] = code; }
  [[nodiscard]] const char32_t* begin() const noexcept { return codes; }
  [[nodiscard]] const char32_t* end() const noexcept { return codes + size; }
};

/// What is left after canonical decomposition without marks; the code point itself where it does not decompose.
Few without_marks(char32_t code) noexcept;
Few lower(char32_t code) noexcept;
/// Whether any code point from `first` to `last` decomposes, or has a lower case of several.
bool any_special(char32_t first, char32_t last) noexcept;

}  // namespace atb::unicode
