// What the files of the binding share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace atb {

namespace nb = nanobind;

void bind_bundle(nb::module_& module);
void bind_tokenizer(nb::module_& module);
void bind_engine(nb::module_& module);
void bind_classifier(nb::module_& module);

/// An array that owns `values`, without a copy.
template <typename Value, std::size_t Axes>
nb::ndarray<nb::numpy, Value, nb::ndim<Axes>> array_of(std::vector<Value>&& values, const std::size_t (&shape)[Axes]) {
  auto kept = std::make_unique<std::vector<Value>>(std::move(values));
  Value* data = kept->data();
  const nb::capsule owner(kept.get(), [](void* all) noexcept { delete static_cast<std::vector<Value>*>(all); });
  (void)kept.release();  // which the capsule now owns
  return {data, Axes, shape, owner};
}

/// A str as UTF-8, which lives as long as the str. Throws Python's UnicodeEncodeError for half an emoji.
inline std::string_view utf8_of(nb::handle text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw nb::python_error();
  return {data, static_cast<std::size_t>(size)};
}

}  // namespace atb
