// How many tokens of a text or a pair stay where there are too many.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "atb/error.h"
#include "atb/tokenizer.h"

namespace atb {

/// Tokens that fit beside the special ones. Throws `Error(Kind::invalid)` where these alone are too many.
inline std::size_t room_beside(std::size_t specials, std::size_t max_length) {
  if (max_length < specials)
    throw Error(Kind::invalid, "a length of " + std::to_string(max_length) + " tokens does not hold the " +
                                   std::to_string(specials) + " special ones");
  return max_length - specials;
}

/// What is left of one text that must give up `excess` tokens, and may not give up all.
inline std::size_t shortened(std::size_t size, std::size_t excess) {
  if (size <= excess)
    throw Error(Kind::invalid, "the text to be cut has " + std::to_string(size) + " tokens, and " +
                                   std::to_string(excess) + " are too many");
  return size - excess;
}

inline std::size_t kept(std::size_t size, std::size_t room, const Truncation& how) {
  if (room > 0 && size > room && how.strategy == Truncation::Strategy::only_second)
    throw Error(Kind::invalid, "only the second text may be cut, and there is one");
  return std::min(size, room);
}

inline std::array<std::size_t, 2> kept_of_pair(std::size_t first, std::size_t second, std::size_t room,
                                               const Truncation& how) {
  if (room == 0) return {0, 0};
  if (first + second <= room) return {first, second};
  const std::size_t excess = first + second - room;
  if (how.strategy == Truncation::Strategy::only_first) return {shortened(first, excess), second};
  if (how.strategy == Truncation::Strategy::only_second) return {first, shortened(second, excess)};
  // The longer one shrinks to what the shorter one leaves, but not below it: then both get half, and the longer one,
  // or the second of equals, the odd token.
  const std::size_t shorter = std::min(first, second);
  const std::size_t half = room / 2;
  const std::array<std::size_t, 2> sizes =
      shorter <= half ? std::array{shorter, room - shorter} : std::array{half, room - half};
  return first > second ? std::array{sizes[1], sizes[0]} : sizes;
}

}  // namespace atb
