#include "json_reader.h"

#include <charconv>
#include <cstring>

namespace atb {
namespace {

bool digit(char sign) { return sign >= '0' && sign <= '9'; }

void append_utf8(std::string& out, std::uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xC0 | (point >> 6));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    out += static_cast<char>(0xE0 | (point >> 12));
    out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (point >> 18));
    out += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  }
}

}  // namespace

bool valid_utf8(std::string_view text) noexcept {
  std::size_t i = 0;
  const std::size_t size = text.size();
  while (i < size) {
    if (i + 8 <= size) {  // eight of ASCII at once
      std::uint64_t eight = 0;
      std::memcpy(&eight, text.data() + i, 8);
      if ((eight & 0x8080808080808080U) == 0) {
        i += 8;
        continue;
      }
    }
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || i + more >= size) {
      return false;
    }
    const unsigned second = byte(i + 1);  // its range shuts out overlong forms, surrogates and what is above U+10FFFF
    const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (second < low || second > high) {
      return false;
    }
    for (std::size_t k = 2; k <= more; ++k) {
      if ((byte(i + k) & 0xC0U) != 0x80) {
        return false;
      }
    }
    i += more + 1;
  }
  return true;
}

JsonReader::JsonReader(std::string_view text) : text_(text) {
  if (!valid_utf8(text)) {
    throw JsonError("the body is not UTF-8");
  }
}

void JsonReader::broken(const std::string& expected) const {
  throw JsonError("the body is no JSON: " + expected + " at byte " + std::to_string(at_));
}

void JsonReader::refuse(std::string_view what, std::string_view kind) const {
  throw Error(Kind::invalid,
              std::string(what) + " is " + std::string(kind) + " (byte " + std::to_string(at_) + " of the body)");
}

char JsonReader::look() {
  while (at_ < text_.size()) {
    const char sign = text_[at_];
    if (sign != ' ' && sign != '\n' && sign != '\r' && sign != '\t') {
      return sign;
    }
    ++at_;
  }
  return '\0';  // as a byte it is no JSON either
}

JsonReader::Value JsonReader::peek() {
  switch (const char sign = look()) {
    case '{':
      return Value::object;
    case '[':
      return Value::array;
    case '"':
      return Value::string;
    case 't':
    case 'f':
      return Value::boolean;
    case 'n':
      return Value::null;
    default:
      if (sign == '-' || digit(sign)) {
        return Value::number;
      }
      broken("no value");
  }
}

void JsonReader::open(char bracket, std::string_view what) {
  const Value value = peek();
  if (value != (bracket == '{' ? Value::object : Value::array)) {
    refuse(what, bracket == '{' ? "an object" : "an array");
  }
  if (++depth_ > most_depth) {
    broken("more than " + std::to_string(most_depth) + " levels");
  }
  ++at_;
}

bool JsonReader::close_if(char bracket) {
  if (look() != bracket) {
    return false;
  }
  ++at_;
  --depth_;
  return true;
}

void JsonReader::separator(char sign) {
  if (look() != sign) {
    broken(std::string("no '") + sign + "'");
  }
  ++at_;
}

bool JsonReader::next(char bracket) {
  if (close_if(bracket)) {
    return false;
  }
  if (look() != ',') {
    broken(std::string("neither ',' nor '") + bracket + "'");
  }
  ++at_;
  return true;
}

std::string_view JsonReader::name() {
  if (look() != '"') {
    broken("no name");
  }
  return string("a name");
}

std::string_view JsonReader::string(std::string_view what) {
  if (peek() != Value::string) {
    refuse(what, "a string");
  }
  const std::size_t begin = ++at_;
  for (; at_ < text_.size(); ++at_) {
    const char sign = text_[at_];
    if (sign == '"') {
      return text_.substr(begin, at_++ - begin);
    }
    if (sign == '\\') {
      return unescaped(begin);
    }
    if (static_cast<unsigned char>(sign) < 0x20) {
      broken("a control character in a string");
    }
  }
  broken("no end of a string");
}

std::string_view JsonReader::unescaped(std::size_t begin) {
  std::string& out = strings_.emplace_back(text_, begin, at_ - begin);
  while (at_ < text_.size()) {
    const char sign = text_[at_];
    if (sign == '"') {
      ++at_;
      return out;
    }
    if (static_cast<unsigned char>(sign) < 0x20) {
      broken("a control character in a string");
    }
    ++at_;
    if (sign != '\\') {
      out += sign;
      continue;
    }
    const char escape = at_ < text_.size() ? text_[at_++] : '\0';
    static constexpr std::string_view names = "\"\\/bfnrt", signs = "\"\\/\b\f\n\r\t";
    if (const std::size_t k = names.find(escape); k != std::string_view::npos) {
      out += signs[k];
      continue;
    }
    if (escape != 'u') {
      broken("an unknown escape in a string");
    }
    std::uint32_t point = hexadecimal();
    if (point >= 0xD800 && point < 0xE000) {  // half of a pair
      const bool second = point < 0xDC00 && text_.substr(at_, 2) == "\\u";
      at_ += second ? 2 : 0;
      const std::uint32_t low = second ? hexadecimal() : 0;
      if (low < 0xDC00 || low > 0xDFFF) {
        broken("half a surrogate pair in a string");
      }
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, point);
  }
  broken("no end of a string");
}

unsigned JsonReader::hexadecimal() {
  unsigned value = 0;
  const char* begin = text_.data() + at_;
  if (text_.size() - at_ < 4 || std::from_chars(begin, begin + 4, value, 16).ptr != begin + 4) {
    broken("no four hexadecimal digits");
  }
  at_ += 4;
  return value;
}

std::string_view JsonReader::number() {
  const std::size_t begin = at_;
  const auto digits = [&] {
    if (at_ >= text_.size() || !digit(text_[at_])) {
      broken("no digit");
    }
    while (at_ < text_.size() && digit(text_[at_])) {
      ++at_;
    }
  };
  const auto is = [&](char sign) { return at_ < text_.size() && text_[at_] == sign; };
  if (is('-')) {
    ++at_;
  }
  if (is('0')) {
    ++at_;
  } else {
    digits();
  }
  if (is('.')) {
    ++at_;
    digits();
  }
  if (is('e') || is('E')) {
    ++at_;
    if (is('+') || is('-')) {
      ++at_;
    }
    digits();
  }
  return text_.substr(begin, at_ - begin);
}

std::int64_t JsonReader::integer(std::string_view what) {
  if (peek() != Value::number) {
    refuse(what, "an integer");
  }
  const std::string_view digits = number();
  std::int64_t value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (read.ec != std::errc() || read.ptr != digits.data() + digits.size()) {
    refuse(what, "an integer of 64 bits");
  }
  return value;
}

void JsonReader::word(std::string_view expected) {
  if (text_.substr(at_, expected.size()) != expected) {
    broken("no value");
  }
  at_ += expected.size();
}

bool JsonReader::boolean(std::string_view what) {
  if (peek() != Value::boolean) {
    refuse(what, "true or false");
  }
  const bool value = text_[at_] == 't';
  word(value ? "true" : "false");
  return value;
}

void JsonReader::skip() {
  switch (peek()) {
    case Value::object:
      object("a value", [this](std::string_view) { skip(); });
      break;
    case Value::array:
      array("a value", [this] { skip(); });
      break;
    case Value::string: {
      const std::size_t kept = strings_.size();
      string("a value");
      strings_.resize(kept);
      break;
    }
    case Value::number:
      number();
      break;
    case Value::boolean:
      boolean("a value");
      break;
    case Value::null:
      word("null");
      break;
  }
}

void JsonReader::end() {
  if (look(); at_ != text_.size()) {
    broken("more after the end");
  }
}

}  // namespace atb
