// JSON appended to a string that its owner reuses.
#pragma once

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace atb {

/// With quotes. The text is UTF-8.
void write_string(std::string& out, std::string_view text);

template <class Number>
requires std::integral<Number> || std::floating_point<Number>
void write_number(std::string& out, Number value) {  // the shortest that reads back as the same number
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value);
  out.append(digits, end.ptr);
}

/// A float with a fixed number of digits behind the point.
inline void write_fixed(std::string& out, double value, int digits) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text), value, std::chars_format::fixed, digits);
  out.append(text, end.ec == std::errc() ? end.ptr : text);
}

}  // namespace atb
