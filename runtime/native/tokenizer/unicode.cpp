#include "tokenizer/unicode.h"

#include <algorithm>

namespace atb::unicode {
namespace {

constexpr char32_t kHangul = 0xAC00;
constexpr char32_t kHangulEnd = kHangul + 11172;
constexpr char32_t kLead = 0x1100;
constexpr char32_t kVowel = 0x1161;
constexpr char32_t kTail = 0x11A7;
constexpr char32_t kTails = 28;
constexpr char32_t kSyllablesOfLead = 588;

/// The entry of `code` in a list of (code point, count, that many), or none.
Few look_up(std::span<const char32_t> list, char32_t code) noexcept {
  Few found;
  for (std::size_t at = 0; at < list.size() && list[at] <= code; at += 2 + list[at + 1]) {
    if (list[at] != code) continue;
    for (std::size_t i = 0; i < list[at + 1]; ++i) found.push(list[at + 2 + i]);
  }
  return found;
}

/// Index of the first pair whose code point is not below `code`.
std::size_t pair_from(std::span<const char32_t> pairs, char32_t code) noexcept {
  std::size_t low = 0;
  std::size_t high = pairs.size() / 2;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (pairs[2 * middle] < code)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

bool any_of(std::span<const char32_t> list, char32_t first, char32_t last) noexcept {
  for (std::size_t at = 0; at < list.size(); at += 2 + list[at + 1])
    if (list[at] >= first && list[at] <= last) return true;
  return false;
}

}  // namespace

Facts facts(char32_t code) noexcept {
  const Tables all = tables();
  const auto next = std::ranges::upper_bound(all.runs, code, {}, [](const Run& run) { return char32_t{run.first}; });
  return all.kinds[std::prev(next)->kind];
}

Few without_marks(char32_t code) noexcept {
  Few found;
  if (code >= kHangul && code < kHangulEnd) {
    const char32_t at = code - kHangul;
    found.push(kLead + at / kSyllablesOfLead);
    found.push(kVowel + at % kSyllablesOfLead / kTails);
    if (at % kTails != 0) found.push(kTail + at % kTails);
    return found;
  }
  const Tables all = tables();
  if (const std::size_t at = pair_from(all.single, code); 2 * at < all.single.size() && all.single[2 * at] == code) {
    found.push(all.single[2 * at + 1]);
    return found;
  }
  found = look_up(all.several, code);
  if (found.size == 0) found.push(code);
  return found;
}

Few lower(char32_t code) noexcept {
  Few found = look_up(tables().lower, code);
  if (found.size == 0) found.push(static_cast<char32_t>(static_cast<std::int32_t>(code) + facts(code).lower));
  return found;
}

bool any_special(char32_t first, char32_t last) noexcept {
  const Tables all = tables();
  if (last >= kHangul && first < kHangulEnd) return true;
  const std::size_t at = pair_from(all.single, first);
  return (2 * at < all.single.size() && all.single[2 * at] <= last) || any_of(all.several, first, last) ||
         any_of(all.lower, first, last);
}

}  // namespace atb::unicode
