// JSON as a tree that keeps what Python's `json` would write again: the order of names, and numbers as they stand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace atb::json {

inline constexpr std::size_t kDeepest = 64;

struct Node {
  enum class Type { null, boolean, number, text, list, object };

  Type type = Type::null;
  bool truth = false;
  std::string text;                // of a text, or the digits of a number
  std::vector<std::string> names;  // of an object, in the order they were written
  std::vector<Node> items;         // of a list or an object

  /// The value of that name; null where there is none or this is no object.
  [[nodiscard]] const Node* find(std::string_view name) const noexcept;
  /// A whole number of 64 bits; nothing where it is another kind of value ("1.0" is a float, as in Python).
  [[nodiscard]] std::optional<std::int64_t> whole() const noexcept;
};

/// Throws `std::invalid_argument` for what is no JSON, a name that is there twice, and more than `kDeepest` levels.
Node parse(std::string_view text);

/// As Python's `json.dumps(x, indent=2)`.
std::string indented(const Node& node);
/// As Python's `json.dumps(x, sort_keys=True, separators=(",", ":"))`, of an object without the name `without`.
std::string canonical(const Node& node, std::string_view without = {});

}  // namespace atb::json
