#include "atb/engine.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "atb/error.h"
#include "binding/binding.h"

namespace atb {
namespace {

using Rows = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

/// An engine with one session, for one thread after another.
class OneEngine {
 public:
  explicit OneEngine(std::shared_ptr<const Engine> engine) : engine_(std::move(engine)), session_(engine_->session()) {}

  static std::unique_ptr<OneEngine> open(const Bundle& bundle, const std::string& wanted, std::size_t batch) {
    return std::make_unique<OneEngine>(open_engine(bundle.choose(wanted, can_run).front(), batch));
  }

  [[nodiscard]] const Engine& engine() const noexcept { return *engine_; }

  nb::ndarray<nb::numpy, float, nb::ndim<2>> infer(const Rows& ids, const std::optional<Rows>& mask,
                                                   const std::optional<Rows>& types) {
    const std::size_t batch = ids.shape(0), length = ids.shape(1);
    for (const auto* other : {&mask, &types})
      if (*other && ((*other)->shape(0) != batch || (*other)->shape(1) != length))
        throw Error(Kind::invalid, "all inputs have the shape of input_ids");
    std::vector<float> logits;
    {
      const nb::gil_scoped_release released;
      const std::scoped_lock lock(mutex_);
      refuse_other_shapes(batch, length);
      const Inputs inputs = session_->inputs(batch, length);
      copy("input_ids", ids.data(), inputs.ids);
      copy("attention_mask", mask ? mask->data() : nullptr, inputs.mask);
      copy("token_type_ids", types ? types->data() : nullptr, inputs.types);
      const auto answer = session_->run();
      logits.assign(answer.begin(), answer.end());
    }
    const std::size_t shape[] = {batch, engine_->labels()};
    return array_of(std::move(logits), shape);
  }

 private:
  std::shared_ptr<const Engine> engine_;
  std::mutex mutex_;
  std::unique_ptr<Session> session_;

  void refuse_other_shapes(std::size_t batch, std::size_t length) const {
    const Target& target = engine_->target();
    const bool fits = target.dynamic ? batch >= 1 && batch <= target.batch && length >= 1 && length <= target.length
                                     : batch == target.batch && length == target.length;
    if (!fits)
      throw Error(Kind::invalid, "input_ids is [" + std::to_string(batch) + ", " + std::to_string(length) + "]; " +
                                     target.label() + " takes [" + std::to_string(target.batch) + ", " +
                                     std::to_string(target.length) + "]" + (target.dynamic ? " at most" : ""));
  }

  /// Into the engine's own buffer; an input that the model has not is passed over, as long as nobody gives it.
  static void copy(const char* name, const std::int64_t* from, std::span<std::int64_t> to) {
    if ((from == nullptr) != to.empty())
      throw Error(Kind::invalid, std::string(name) + (from == nullptr ? " is missing" : " is no input of this model"));
    if (from != nullptr) std::copy_n(from, to.size(), to.data());
  }
};

}  // namespace

void bind_engine(nb::module_& module) {
  nb::class_<OneEngine>(module, "Engine", "A compiled model: rows of token ids in, logits out.")
      .def_static("open", &OneEngine::open, nb::arg("bundle"), nb::arg("engine") = "", nb::kw_only(),
                  nb::arg("batch") = 0, nb::call_guard<nb::gil_scoped_release>())
      .def("infer", &OneEngine::infer, nb::arg("input_ids").noconvert(),
           nb::arg("attention_mask").noconvert() = nb::none(), nb::arg("token_type_ids").noconvert() = nb::none(),
           "float32 [batch, labels] of int64 [batch, length] each, C-contiguous.")
      .def_prop_ro("label", [](const OneEngine& one) { return one.engine().target().label(); })
      .def_prop_ro("effective_precision", [](const OneEngine& one) { return one.engine().effective_precision(); })
      .def_prop_ro("labels", [](const OneEngine& one) { return one.engine().labels(); });
}

}  // namespace atb
