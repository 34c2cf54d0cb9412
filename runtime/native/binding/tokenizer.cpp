#include "atb/tokenizer.h"

#include <nanobind/stl/string.h>

#include <utility>

#include "binding/binding.h"

namespace atb {
namespace {

nb::tuple encode(const Tokenizer& tokenizer, nb::handle text, nb::handle pair, std::size_t max_length) {
  if (!nb::isinstance<nb::str>(text) || !(pair.is_none() || nb::isinstance<nb::str>(pair)))
    throw nb::type_error("a text is a str");
  const std::string_view first = utf8_of(text);
  const std::string_view second = pair.is_none() ? std::string_view() : utf8_of(pair);
  const bool alone = pair.is_none();
  Encoding tokens;
  {
    const nb::gil_scoped_release released;
    if (alone)
      tokenizer.encode(first, max_length, tokens);
    else
      tokenizer.encode(first, second, max_length, tokens);
  }
  const std::size_t shape[] = {tokens.size()};
  return nb::make_tuple(array_of(std::move(tokens.ids), shape), array_of(std::move(tokens.types), shape));
}

}  // namespace

void bind_tokenizer(nb::module_& module) {
  nb::class_<Tokenizer>(module, "Tokenizer", "BERT's WordPiece, token for token that of Hugging Face's tokenizers.")
      .def_static(
          "from_file", [](const std::string& path) { return Tokenizer::from_file(path); }, nb::arg("path"))
      .def_static(
          "from_json", [](const std::string& json) { return Tokenizer::from_json(json); }, nb::arg("json"))
      .def("encode", &encode, nb::arg("text"), nb::arg("pair") = nb::none(), nb::kw_only(), nb::arg("max_length"),
           "Ids (int32) and segments (uint8), special tokens included, without padding.")
      .def_prop_ro("pad_id", &Tokenizer::pad_id)
      .def_prop_ro("vocabulary_size", &Tokenizer::vocabulary_size);
}

}  // namespace atb
