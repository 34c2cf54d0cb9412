// A BERT normalizer as one look-up a character: what comes out for it, and whether that splits words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/settings.h"
#include "tokenizer/utf8.h"

namespace atb {

/// What a character is to BertPreTokenizer: part of a word, a word of its own, or between words.
enum class Part : std::uint8_t { word, punctuation, space };

/// Every step of the normalizer takes characters one by one, but for canonical reordering: combining characters that
/// are not dropped with the accents sort by their class. They are so rare that they have a path of their own.
class CharMap {
 public:
  explicit CharMap(const NormalizerSettings& settings);

  /// At most so many bytes come out for each that goes in.
  [[nodiscard]] std::size_t growth() const noexcept { return growth_; }

  /// Calls `sink(code point, part)` for every character of the normalized text, in its order, until it answers false.
  /// `text` is well-formed UTF-8. Returns whether the end was reached.
  template <class Sink>
  bool walk(std::string_view text, Sink&& sink) const {
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at != end) {
      if (const auto byte = static_cast<std::uint8_t>(*at); byte < kAsciiEnd) {
        ++at;
        const Ascii out = ascii_[byte];
        if (out.kept && !sink(char32_t{out.byte}, out.part)) return false;
        continue;
      }
      const char* const before = at;
      const char32_t code = utf8::next(at);
      const Entry entry = look_up(code);
      if ((entry & kUncommon) == 0) {
        if (!sink(moved(code, entry), part(entry))) return false;
      } else if ((entry & kCombining) != 0) {
        at = before;
        for (const Output& out : reordered(at, end))
          if (!sink(out.code, out.part)) return false;
      } else if ((entry & kSpaced) != 0) {
        if (!sink(U' ', Part::space) || !sink(moved(code, entry), part(entry)) || !sink(U' ', Part::space))
          return false;
      } else {
        const Output* const outputs = pool_.data() + (entry & kCode);
        for (std::size_t i = 0; i < entry >> kCountShift; ++i)
          if (!sink(outputs[i].code, outputs[i].part)) return false;
      }
    }
    return true;
  }

  /// The normalized text, in place of what `out` held.
  void normalize(std::string_view text, std::string& out) const;

 private:
  static constexpr std::size_t kAsciiEnd = 0x80;
  static constexpr std::size_t kBlock = 128;

  struct Ascii {
    std::uint8_t byte;
    Part part;
    bool kept;
  };
  struct Output {
    char32_t code;
    Part part;
    std::uint8_t order;  // combining class
  };
  /// Of one character: how far away it is (modulo 2^21), and its part; of several or none: where they stand in the
  /// pool.
  using Entry = std::uint32_t;
  static constexpr Entry kCode = (1U << 21) - 1;
  static constexpr Entry kPartShift = 21;  // two bits
  static constexpr Entry kPooled = 1U << 23;
  static constexpr Entry kSpaced = 1U << 24;     // one character between blanks
  static constexpr Entry kCombining = 1U << 25;  // pooled, and one of them may move
  static constexpr Entry kUncommon = kPooled | kSpaced;
  static constexpr Entry kCountShift = 26;
  static constexpr Entry kDropped = kPooled;      // none comes out
  static constexpr Entry kBarrier = kPooled | 1;  // nor here, but what combines does not move across its place

  std::array<Ascii, kAsciiEnd> ascii_{};
  std::vector<std::uint16_t> blocks_;  // of each 128 code points
  std::vector<Entry> entries_;         // of each different block
  std::vector<Output> pool_;
  std::size_t growth_ = 1;

  [[nodiscard]] Entry look_up(char32_t code) const noexcept {
    return entries_[std::size_t{blocks_[code / kBlock]} * kBlock + code % kBlock];
  }
  static char32_t moved(char32_t code, Entry entry) noexcept { return (code + entry) & kCode; }
  static Part part(Entry entry) noexcept { return static_cast<Part>(entry >> kPartShift & 3U); }

  [[nodiscard]] Entry make(char32_t code, const NormalizerSettings& settings);
  /// What comes out from a combining character on, up to the next that ends the run of them.
  [[nodiscard]] std::vector<Output> reordered(const char*& at, const char* end) const;
};

}  // namespace atb
