#include "bundle/python_number.h"

#include <array>
#include <charconv>
#include <cmath>

namespace atb {
namespace {

/// The shortest digits that read back the same, placed as `float.__repr__` does: an exponent below 1e-4 and from 1e16.
std::string repr(double value) {
  std::array<char, 40> room{};
  const auto end = std::to_chars(room.data(), room.data() + room.size(), value, std::chars_format::scientific).ptr;
  std::string_view shown(room.data(), static_cast<std::size_t>(end - room.data()));
  std::string sign;
  if (shown.front() == '-') {
    sign = "-";
    shown.remove_prefix(1);
  }
  const auto e = shown.find('e');
  std::string digits(shown.substr(0, e));
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  const bool minus = shown[e + 1] == '-';
  int exponent = 0;
  std::from_chars(shown.data() + e + 2, shown.data() + shown.size(), exponent);
  if (minus) exponent = -exponent;
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    if (count > 1) digits.insert(1, 1, '.');
    const int size = std::abs(exponent);
    return sign + digits + (minus ? "e-" : "e+") + (size < 10 ? "0" : "") + std::to_string(size);
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (exponent + 1 >= count)
    return sign + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  return sign + digits.insert(static_cast<std::size_t>(exponent + 1), 1, '.');
}

}  // namespace

std::string python_number(std::string_view literal) {
  if (literal.find_first_of(".eE") == std::string_view::npos) return literal == "-0" ? "0" : std::string(literal);
  double value = 0;
  const auto [end, error] = std::from_chars(literal.data(), literal.data() + literal.size(), value);
  if (error == std::errc::result_out_of_range) value = literal.find("e-") != literal.npos ? 0 : HUGE_VAL;
  if (end != literal.data() + literal.size() || !std::isfinite(value)) return {};
  return repr(value);
}

}  // namespace atb
