#include "bundle/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "bundle/python_number.h"

namespace atb::json {
namespace {

Node leaf(Node::Type type, std::string text = {}, bool truth = false) {
  Node node;
  node.type = type;
  node.text = std::move(text);
  node.truth = truth;
  return node;
}

/// Builds the tree as the parser reads; the parser itself uses no recursion.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Node root;

  bool null() override { return add({}); }
  bool boolean(bool value) override { return add(leaf(Node::Type::boolean, {}, value)); }
  bool number_integer(std::int64_t value) override { return number(std::to_string(value)); }
  bool number_unsigned(std::uint64_t value) override { return number(std::to_string(value)); }
  bool number_float(double, const std::string& literal) override {  // integers of more than 64 bits come here as well
    std::string shown = python_number(literal);
    if (shown.empty()) throw std::invalid_argument("the number " + literal.substr(0, 40) + " is not finite");
    return number(std::move(shown));
  }
  bool string(std::string& value) override { return add(leaf(Node::Type::text, std::move(value))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Node::Type::object); }
  bool start_array(std::size_t) override { return open(Node::Type::list); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    open_.back().names.push_back(std::move(name));
    return true;
  }
  bool end_object() override {
    std::vector<std::string_view> names(open_.back().names.begin(), open_.back().names.end());
    std::ranges::sort(names);
    if (const auto twin = std::ranges::adjacent_find(names); twin != names.end())
      throw std::invalid_argument("'" + std::string(*twin) + "' is there twice");
    return close();
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    // The parser's own message quotes the bytes, which may be no text.
    throw std::invalid_argument("it is no JSON from byte " + std::to_string(position) + " on");
  }

 private:
  std::vector<Node> open_;

  bool number(std::string shown) { return add(leaf(Node::Type::number, std::move(shown))); }
  bool open(Node::Type type) {
    if (open_.size() == kDeepest)
      throw std::invalid_argument("it is more than " + std::to_string(kDeepest) + " levels deep");
    open_.push_back(leaf(type));
    return true;
  }
  bool close() {
    Node done = std::move(open_.back());
    open_.pop_back();
    return add(std::move(done));
  }
  bool add(Node&& node) {
    if (open_.empty())
      root = std::move(node);
    else
      open_.back().items.push_back(std::move(node));
    return true;
  }
};

void append_escape(std::string& out, std::uint32_t unit) {
  constexpr std::string_view hex = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += hex[(unit >> shift) & 15U];
}

/// In ASCII; `text` is UTF-8, as the parser has made sure.
void append_text(std::string& out, std::string_view text) {
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte >= 0x80) {
      const std::size_t size = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      std::uint32_t code = byte & (0xFFU >> (size + 1));
      for (std::size_t i = 1; i < size; ++i) code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3FU);
      if (code >= 0x10000) {
        append_escape(out, 0xD800 + ((code - 0x10000) >> 10));
        code = 0xDC00 + ((code - 0x10000) & 0x3FF);
      }
      append_escape(out, code);
      at += size;
      continue;
    }
    constexpr std::string_view special = "\"\\\n\r\t\f\b";
    constexpr std::string_view letters = "\"\\nrtfb";
    if (const auto found = special.find(text[at]); found != std::string_view::npos)
      (out += '\\') += letters[found];
    else if (byte < 0x20 || byte == 0x7F)
      append_escape(out, byte);
    else
      out += text[at];
    ++at;
  }
  out += '"';
}

struct Style {
  bool sorted;
  int indent;  // of a level; below 0: on one line, without spaces
};

void append(std::string& out, const Node& node, const Style& style, std::size_t depth, std::string_view without) {
  const auto line = [&](std::size_t level) {
    if (style.indent >= 0) out.append(1, '\n').append(level * static_cast<std::size_t>(style.indent), ' ');
  };
  switch (node.type) {
    case Node::Type::null:
      out += "null";
      return;
    case Node::Type::boolean:
      out += node.truth ? "true" : "false";
      return;
    case Node::Type::number:
      out += node.text;
      return;
    case Node::Type::text:
      append_text(out, node.text);
      return;
    case Node::Type::list:
    case Node::Type::object:
      break;
  }
  const bool object = node.type == Node::Type::object;
  std::vector<std::size_t> order(node.items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Bytes of UTF-8 sort as their code points, which is how Python sorts.
  if (object && style.sorted)
    std::ranges::sort(order, {}, [&](std::size_t i) -> const std::string& { return node.names[i]; });
  if (object && !without.empty()) std::erase_if(order, [&](std::size_t i) { return node.names[i] == without; });
  out += object ? '{' : '[';
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0) out += ',';
    line(depth + 1);
    if (object) {
      append_text(out, node.names[order[i]]);
      out += style.indent >= 0 ? ": " : ":";
    }
    append(out, node.items[order[i]], style, depth + 1, {});
  }
  if (!order.empty()) line(depth);
  out += object ? '}' : ']';
}

}  // namespace

const Node* Node::find(std::string_view name) const noexcept {
  if (type != Type::object) return nullptr;
  const auto found = std::ranges::find(names, name);
  return found == names.end() ? nullptr : &items[static_cast<std::size_t>(found - names.begin())];
}

std::optional<std::int64_t> Node::whole() const noexcept {
  std::int64_t value = 0;
  if (type != Type::number) return {};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

Node parse(std::string_view text) {
  if (const auto zero = text.find('\0'); zero != text.npos)  // where the parser would see the end
    throw std::invalid_argument("it is no JSON from byte " + std::to_string(zero + 1) + " on");
  Builder builder;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) throw std::invalid_argument("it is no JSON");
  return std::move(builder.root);
}

std::string indented(const Node& node) {
  std::string out;
  append(out, node, {.sorted = false, .indent = 2}, 0, {});
  return out;
}

std::string canonical(const Node& node, std::string_view without) {
  std::string out;
  append(out, node, {.sorted = true, .indent = -1}, 0, without);
  return out;
}

}  // namespace atb::json
