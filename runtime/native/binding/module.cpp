#include <exception>

#include "atb/error.h"
#include "binding/binding.h"

namespace atb {
namespace {

/// The name in `runtime.errors` that says the same.
const char* python_name(Kind kind) {
  switch (kind) {
    case Kind::invalid:
    case Kind::too_large:
      return "FeedError";
    case Kind::bundle:
      return "BundleError";
    case Kind::not_found:
      return "UnsupportedTarget";
    default:
      return "AtbRuntimeError";
  }
}

void translate(const std::exception_ptr& thrown, void* /*payload*/) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    const nb::object type = nb::module_::import_("runtime.errors").attr(python_name(error.kind()));
    const std::string_view text = error.what();  // of a library's own message nobody knows what bytes it holds
    const auto message = nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
    PyErr_SetObject(type.ptr(), message.ptr());
  }
}

}  // namespace
}  // namespace atb

NB_MODULE(_native, module) {
  module.doc() = "The native part of runtime: bundles, tokenizer, engines and the classifier made of them.";
  nanobind::register_exception_translator(atb::translate);
  atb::bind_bundle(module);
  atb::bind_tokenizer(module);
  atb::bind_engine(module);
  atb::bind_classifier(module);
}
