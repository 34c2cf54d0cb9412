#include "path.h"

#include <algorithm>
#include <charconv>

namespace atb {
namespace {

constexpr std::size_t most_parts = 8;  // our longest path has seven

bool decode(std::string_view text, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    if (i + 2 >= text.size() || std::from_chars(&text[i + 1], &text[i + 1] + 2, value, 16).ptr != &text[i + 1] + 2) {
      return false;
    }
    out += static_cast<char>(value);
    i += 2;
  }
  return true;
}

}  // namespace

bool Path::read(std::string_view target) {
  size = 0;
  model.clear();
  if (target.empty() || target.front() != '/') {
    return false;
  }
  std::string_view query;
  if (const auto mark = target.find('?'); mark != std::string_view::npos) {
    query = target.substr(mark + 1);
    target = target.substr(0, mark);
  }
  for (target.remove_prefix(1); !target.empty();) {
    const auto end = std::min(target.find('/'), target.size());
    if (size == most_parts) {
      return false;
    }
    if (parts.size() == size) {
      parts.emplace_back();
    }
    if (!decode(target.substr(0, end), parts[size++])) {
      return false;
    }
    target.remove_prefix(std::min(end + 1, target.size()));
  }
  while (!query.empty()) {
    const auto end = std::min(query.find('&'), query.size());
    if (const auto pair = query.substr(0, end); pair.starts_with("model=") && !decode(pair.substr(6), model)) {
      return false;
    }
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return true;
}

}  // namespace atb
