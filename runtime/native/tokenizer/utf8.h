// UTF-8: checked once at the door, then read without checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace atb::utf8 {

/// Offset of the first byte that begins no well-formed character; `npos` where there is none.
inline std::size_t first_bad(std::string_view text) noexcept {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const std::size_t size = text.size();
  const auto tail = [&](std::size_t at, std::uint8_t low, std::uint8_t high) {
    return at < size && bytes[at] >= low && bytes[at] <= high;
  };
  for (std::size_t at = 0; at < size;) {
    std::uint64_t eight = 0;
    if (at + sizeof(eight) <= size) {
      std::memcpy(&eight, bytes + at, sizeof(eight));
      if ((eight & 0x8080808080808080U) == 0) {
        at += sizeof(eight);
        continue;
      }
    }
    const std::uint8_t lead = bytes[at];
    if (lead < 0x80) {
      ++at;
    } else if (lead >= 0xC2 && lead <= 0xDF && tail(at + 1, 0x80, 0xBF)) {
      at += 2;
    } else if ((lead & 0xF0U) == 0xE0 &&  // neither longer than need be, nor a surrogate
               tail(at + 1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && tail(at + 2, 0x80, 0xBF)) {
      at += 3;
    } else if (lead >= 0xF0 && lead <= 0xF4 && tail(at + 1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) &&
               tail(at + 2, 0x80, 0xBF) && tail(at + 3, 0x80, 0xBF)) {
      at += 4;
    } else {
      return at;
    }
  }
  return std::string_view::npos;
}

/// The character at `at`, which moves behind it. The text is well-formed.
inline char32_t next(const char*& at) noexcept {
  const auto byte = [&](int i) { return static_cast<std::uint32_t>(static_cast<std::uint8_t>(at[i])); };
  const std::uint32_t lead = byte(0);
  char32_t code = lead;
  if (lead < 0x80) {
    at += 1;
  } else if (lead < 0xE0) {
    code = (lead & 0x1FU) << 6 | (byte(1) & 0x3FU);
    at += 2;
  } else if (lead < 0xF0) {
    code = (lead & 0x0FU) << 12 | (byte(1) & 0x3FU) << 6 | (byte(2) & 0x3FU);
    at += 3;
  } else {
    code = (lead & 0x07U) << 18 | (byte(1) & 0x3FU) << 12 | (byte(2) & 0x3FU) << 6 | (byte(3) & 0x3FU);
    at += 4;
  }
  return code;
}

/// The character that ends before `end`, which moves to its start.
inline char32_t previous(const char*& end) noexcept {
  do --end;
  while ((static_cast<std::uint8_t>(*end) & 0xC0U) == 0x80);
  const char* at = end;
  return next(at);
}

inline std::size_t size_of(char32_t code) noexcept {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/// Writes up to four bytes; returns the place behind them.
inline char* put(char* at, char32_t code) noexcept {
  const auto byte = [&](std::uint32_t value) { *at++ = static_cast<char>(value); };
  const auto tail = [&](int shift) { byte(0x80U | (code >> shift & 0x3FU)); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xC0U | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    byte(0xE0U | code >> 12);
    tail(6);
    tail(0);
  } else {
    byte(0xF0U | code >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
  return at;
}

inline std::size_t characters(const char* from, const char* end) noexcept {
  std::size_t count = 0;
  for (; from != end; ++from) count += (static_cast<std::uint8_t>(*from) & 0xC0U) != 0x80;
  return count;
}

}  // namespace atb::utf8
