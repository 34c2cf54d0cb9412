#include "atb/bundle.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "binding/binding.h"

namespace atb {

void bind_bundle(nb::module_& module) {
  nb::class_<Bundle>(module, "Bundle", "A folder that was checked against its manifest, file by file.")
      .def_static(
          "read", [](const std::string& folder) { return Bundle::read(folder); }, nb::arg("folder"),
          nb::call_guard<nb::gil_scoped_release>())
      .def_ro("name", &Bundle::name)
      .def_ro("sha256", &Bundle::sha256)
      .def_ro("labels", &Bundle::labels)
      .def_ro("max_length", &Bundle::max_length)
      .def_prop_ro("folder", [](const Bundle& bundle) { return bundle.folder.string(); })
      .def_prop_ro("task",
                   [](const Bundle& bundle) {
                     return std::string(bundle.task == Task::regression ? "regression" : "classification");
                   })
      .def_prop_ro("tokenizer", [](const Bundle& bundle) { return bundle.tokenizer.string(); })
      .def_prop_ro("engines", [](const Bundle& bundle) {
        std::vector<std::string> labels;
        for (const EngineEntry& entry : bundle.engines) labels.push_back(entry.target.label());
        return labels;
      });
}

}  // namespace atb
