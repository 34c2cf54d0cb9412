// Reads the JSON of a request where it lies: no tree, no copy of a text that has no escapes, bounded depth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "atb/error.h"

namespace atb {

/// The body is no JSON at all, in contrast to JSON that says something we do not take.
class JsonError : public Error {
 public:
  explicit JsonError(const std::string& message) : Error(Kind::invalid, message) {}
};

bool valid_utf8(std::string_view text) noexcept;

/// Pulls values in the order they come. A value asked for as another kind than it is throws `JsonError`'s parent,
/// `Error(Kind::invalid)`, naming `what`.
///
///     JsonReader json(body);
///     json.object([&](std::string_view key) { key == "id" ? void(id = json.string("id")) : json.skip(); });
///     json.end();
class JsonReader {
 public:
  static constexpr unsigned most_depth = 16;

  /// `text` is UTF-8 (checked) and lives longer than this, as this does than the views that `string` answers.
  explicit JsonReader(std::string_view text);

  enum class Value { object, array, string, number, boolean, null };
  /// What comes next, without taking it.
  Value peek();

  template <class Each>
  void object(std::string_view what, Each each) {  // each(key) takes the value
    open('{', what);
    if (!close_if('}')) {
      do {
        const std::string_view key = name();
        separator(':');
        each(key);
      } while (next('}'));
    }
  }
  template <class Each>
  void array(std::string_view what, Each each) {  // each() takes the element
    open('[', what);
    if (!close_if(']')) {
      do {
        each();
      } while (next(']'));
    }
  }
  std::string_view string(std::string_view what);
  std::int64_t integer(std::string_view what);
  bool boolean(std::string_view what);
  void skip();
  /// Nothing may follow but white space.
  void end();

 private:
  [[noreturn]] void broken(const std::string& expected) const;
  [[noreturn]] void refuse(std::string_view what, std::string_view kind) const;
  char look();
  void open(char bracket, std::string_view what);
  bool close_if(char bracket);
  void separator(char sign);
  bool next(char bracket);
  void word(std::string_view expected);
  std::string_view name();
  std::string_view number();
  std::string_view unescaped(std::size_t begin);
  unsigned hexadecimal();

  std::string_view text_;
  std::size_t at_ = 0;
  unsigned depth_ = 0;
  std::deque<std::string> strings_;  // those that had escapes
};

}  // namespace atb
