#include "tokenizer/settings.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <stdexcept>

#include "bundle/json.h"

namespace atb {
namespace {

using json::Node;

[[noreturn]] void refuse(const std::string& path, const std::string& problem) {
  throw std::invalid_argument(path + " " + problem);
}

/// A value with its place in the file, which errors name.
class Field {
 public:
  Field(const Node& node, std::string path) : node_(&node), path_(std::move(path)) {}

  [[nodiscard]] bool null() const noexcept { return node_->type == Node::Type::null; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  [[nodiscard]] bool has(std::string_view name) const {
    check(Node::Type::object, "an object");
    return node_->find(name) != nullptr;
  }
  [[nodiscard]] Field at(std::string_view name) const {
    if (!has(name)) refuse(path_, "has no \"" + std::string(name) + "\"");
    return {*node_->find(name), path_.empty() ? std::string(name) : path_ + "." + std::string(name)};
  }
  /// An unknown name may be a setting of a later version that changes what ids come out.
  void only(std::initializer_list<std::string_view> names) const {
    check(Node::Type::object, "an object");
    for (const std::string& name : node_->names)
      if (std::ranges::find(names, name) == names.end()) refuse(path_, "has \"" + name + "\", which is unknown here");
  }
  [[nodiscard]] bool truth() const {
    check(Node::Type::boolean, "true or false");
    return node_->truth;
  }
  [[nodiscard]] const std::string& text() const {
    check(Node::Type::text, "a string");
    return node_->text;
  }
  [[nodiscard]] std::int64_t whole(std::int64_t most) const {
    const auto value = node_->whole();
    if (!value || *value < 0 || *value > most)
      refuse(path_, "must be a whole number from 0 to " + std::to_string(most));
    return *value;
  }
  [[nodiscard]] std::int32_t id() const {
    return static_cast<std::int32_t>(whole(std::numeric_limits<std::int32_t>::max()));
  }
  [[nodiscard]] std::vector<Field> items() const {
    check(Node::Type::list, "a list");
    std::vector<Field> found;
    for (std::size_t i = 0; i < node_->items.size(); ++i)
      found.emplace_back(node_->items[i], path_ + "[" + std::to_string(i) + "]");
    return found;
  }
  [[nodiscard]] const Node& object() const {
    check(Node::Type::object, "an object");
    return *node_;
  }
  /// `type`, which must be `only_one`: the others are named, not approximated.
  void of_type(std::string_view only_one) const {
    if (const std::string& type = at("type").text(); type != only_one) unsupported(type, only_one);
  }
  [[noreturn]] void unsupported(const std::string& type, std::string_view supported) const {
    refuse(path_, "is of type " + type + "; only " + std::string(supported) +
                      " is computed exactly here, so serve this model with the Python runtime");
  }

 private:
  const Node* node_;
  std::string path_;

  void check(Node::Type type, const char* name) const {
    if (node_->type != type) refuse(path_.empty() ? "the file" : path_, std::string("must be ") + name);
  }
};

NormalizerSettings normalizer(const Field& field) {
  if (field.null()) return {};
  field.of_type("BertNormalizer");
  field.only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
  NormalizerSettings out;
  out.clean = field.at("clean_text").truth();
  out.chinese = field.at("handle_chinese_chars").truth();
  out.lower = field.at("lowercase").truth();
  const bool given = field.has("strip_accents") && !field.at("strip_accents").null();
  out.strip = given ? field.at("strip_accents").truth() : out.lower;
  return out;
}

WordPieceSettings model(const Field& field) {
  if (field.has("type")) field.of_type("WordPiece");  // files of the first releases do without
  field.only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  WordPieceSettings out;
  out.unknown = field.at("unk_token").text();
  out.prefix = field.at("continuing_subword_prefix").text();
  out.max_characters =
      static_cast<std::uint64_t>(field.at("max_input_chars_per_word").whole(std::numeric_limits<std::int64_t>::max()));
  const Field vocabulary = field.at("vocab");
  const Node& words = vocabulary.object();
  out.vocabulary.reserve(words.names.size());
  for (std::size_t i = 0; i < words.names.size(); ++i)
    out.vocabulary.emplace_back(words.names[i],
                                Field(words.items[i], vocabulary.path() + "[\"" + words.names[i] + "\"]").id());
  if (std::ranges::find(out.vocabulary, out.unknown, [](const auto& word) { return word.first; }) ==
      out.vocabulary.end())
    refuse(field.path() + ".unk_token", "is \"" + out.unknown + "\", which the vocabulary does not hold");
  return out;
}

AddedTokenSettings added_token(const Field& field) {
  field.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  (void)field.at("id").id();  // ids are given anew from the vocabulary, as `tokenizers` does
  (void)field.at("special").truth();
  return {.content = field.at("content").text(),
          .single_word = field.at("single_word").truth(),
          .lstrip = field.at("lstrip").truth(),
          .rstrip = field.at("rstrip").truth(),
          .normalized = field.at("normalized").truth()};
}

std::uint8_t type_id(const Field& field) {
  return static_cast<std::uint8_t>(field.whole(std::numeric_limits<std::uint8_t>::max()));
}

Piece sequence(const Field& field) {
  field.only({"id", "type_id"});
  const std::string& id = field.at("id").text();
  if (id != "A" && id != "B") refuse(field.path() + ".id", "is \"" + id + "\"; sequences are A and B");
  return {.of = id == "A" ? Piece::Of::first : Piece::Of::second, .ids = {}, .type = type_id(field.at("type_id"))};
}

Piece special(const Field& field, const Field& tokens) {
  field.only({"id", "type_id"});
  const Field token = tokens.at(field.at("id").text());
  token.only({"id", "ids", "tokens"});
  Piece out{.of = Piece::Of::special, .ids = {}, .type = type_id(field.at("type_id"))};
  for (const Field& id : token.at("ids").items()) out.ids.push_back(id.id());
  return out;
}

std::vector<Piece> pieces(const Field& list, const Field& tokens, bool pair) {
  std::vector<Piece> out;
  for (const Field& item : list.items()) {
    item.only({"SpecialToken", "Sequence"});
    const bool named = item.has("Sequence");
    if (named && item.has("SpecialToken")) refuse(item.path(), "is both a sequence and a special token");
    out.push_back(named ? sequence(item.at("Sequence")) : special(item.at("SpecialToken"), tokens));
  }
  const auto count = [&](Piece::Of of) { return std::ranges::count(out, of, &Piece::of); };
  if (!pair && count(Piece::Of::second) > 0) refuse(list.path(), "uses sequence B, and one text has none");
  if (count(Piece::Of::first) > 1 || count(Piece::Of::second) > 1)
    refuse(list.path(), "uses a sequence twice, so that cutting it to a length would not bound the answer");
  return out;
}

void post_processor(const Field& field, Settings& out) {
  const Piece first{.of = Piece::Of::first, .ids = {}, .type = 0};
  const auto second = [](std::uint8_t type) { return Piece{.of = Piece::Of::second, .ids = {}, .type = type}; };
  if (field.null()) {
    out.single = {first};
    out.pair = {first, second(0)};  // nobody gives the second text another type
    return;
  }
  const std::string& type = field.at("type").text();
  if (type == "TemplateProcessing") {
    field.only({"type", "single", "pair", "special_tokens"});
    out.single = pieces(field.at("single"), field.at("special_tokens"), false);
    out.pair = pieces(field.at("pair"), field.at("special_tokens"), true);
  } else if (type == "BertProcessing") {
    field.only({"type", "sep", "cls"});
    const auto token = [&](const char* name, std::uint8_t of_type) {
      const auto items = field.at(name).items();
      if (items.size() != 2) refuse(field.path() + "." + name, "must be a token and its id");
      (void)items[0].text();
      return Piece{.of = Piece::Of::special, .ids = {items[1].id()}, .type = of_type};
    };
    out.single = {token("cls", 0), first, token("sep", 0)};
    out.pair = {token("cls", 0), first, token("sep", 0), second(1), token("sep", 1)};
  } else {
    field.unsupported(type, "TemplateProcessing or BertProcessing");
  }
}

}  // namespace

Settings parse_settings(std::string_view text) {
  const Node root = json::parse(text);
  const Node none;
  const Field file(root, "");
  const auto optional = [&](const char* name) { return file.has(name) ? file.at(name) : Field(none, name); };
  if (file.has("version") && file.at("version").text() != "1.0")
    refuse("version", "is \"" + file.at("version").text() + "\"; only 1.0 is known");
  Settings out;
  out.normalizer = normalizer(optional("normalizer"));
  const Field splitter = file.at("pre_tokenizer");
  if (splitter.null()) refuse("pre_tokenizer", "is missing; only BertPreTokenizer is computed exactly here");
  splitter.of_type("BertPreTokenizer");
  splitter.only({"type"});
  out.model = model(file.at("model"));
  if (file.has("added_tokens"))
    for (const Field& item : file.at("added_tokens").items()) out.added.push_back(added_token(item));
  post_processor(optional("post_processor"), out);
  if (const Field padding = optional("padding"); !padding.null()) out.pad_id = padding.at("pad_id").id();
  return out;
}

}  // namespace atb
