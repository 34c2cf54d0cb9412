#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <utility>

#include "atb/error.h"
#include "atb/model.h"
#include "binding/batch.h"
#include "binding/binding.h"

namespace atb {
namespace {

/// The model while it is open. Calls of several threads run side by side.
class Classifier {
 public:
  static std::unique_ptr<Classifier> load(const std::string& folder, const std::string& engine, unsigned workers,
                                          std::vector<std::size_t> batches) {
    ModelOptions options;
    options.engine = engine;
    options.rows = std::move(batches);
    options.batcher.workers = workers;
    options.batcher.pin = false;  // the process is somebody else's
    auto made = std::make_unique<Classifier>();
    made->model_ = Model::load(folder, options);
    return made;
  }

  [[nodiscard]] std::shared_ptr<Model> model() const {
    if (!model_) throw Error(Kind::unavailable, "the classifier is closed; load its bundle again");
    return model_;
  }
  void close() {
    const std::shared_ptr<Model> last = std::move(model_);
    const nb::gil_scoped_release released;  // while its workers end
    (void)last;
  }

  /// float32 [texts, labels].
  [[nodiscard]] nb::ndarray<nb::numpy, float, nb::ndim<2>> logits(const nb::sequence& texts) const {
    const auto open = model();
    const std::size_t shape[] = {nb::len(texts), open->bundle().labels.size()};
    return array_of(compute(*open, texts), shape);
  }

  /// Of each text the score of every label, best first.
  [[nodiscard]] nb::list scores(const nb::sequence& texts) const {
    const auto open = model();
    const std::vector<float> logits = compute(*open, texts);
    const std::size_t labels = open->bundle().labels.size();
    nb::list answers;
    std::vector<Score> best;
    for (std::size_t at = 0; at < logits.size(); at += labels) {
      open->scores(std::span(logits).subspan(at, labels), best);
      nb::list one;
      for (const Score& score : best) {
        nb::dict pair;
        pair["label"] = nb::str(score.label.data(), score.label.size());
        pair["score"] = score.score;
        one.append(std::move(pair));
      }
      answers.append(std::move(one));
    }
    return answers;
  }

 private:
  std::shared_ptr<Model> model_;

  static std::string_view text_of(nb::handle text) {
    if (!nb::isinstance<nb::str>(text)) {
      const std::string type = nb::type_name(text.type()).c_str();
      throw nb::type_error(("a text is a str, and a pair a tuple of two; got " + type).c_str());
    }
    return utf8_of(text);
  }

  static std::vector<float> compute(Model& model, const nb::sequence& texts) {
    std::vector<nb::object> held;  // the texts themselves: the list is the caller's to change
    std::vector<TextOrPair> views;
    for (nb::handle text : texts) {
      held.push_back(nb::borrow(text));
      if (nb::isinstance<nb::tuple>(text) && nb::len(text) == 2)
        views.push_back({text_of(text[0]), text_of(text[1]), true});
      else
        views.push_back({text_of(text), {}, false});
    }
    if (views.empty()) return {};
    const nb::gil_scoped_release released;
    return answer(model, views);
  }
};

}  // namespace

void bind_classifier(nb::module_& module) {
  nb::class_<Classifier>(module, "Classifier", "Text in, label out; `runtime.Classifier` is made of it.")
      .def_static("load", &Classifier::load, nb::arg("folder"), nb::arg("engine"), nb::arg("workers"),
                  nb::arg("batches"), nb::call_guard<nb::gil_scoped_release>())
      .def("logits", &Classifier::logits, nb::arg("texts"))
      .def("scores", &Classifier::scores, nb::arg("texts"))
      .def("close", &Classifier::close)
      .def("describe", [](const Classifier& one) { return one.model()->describe(); })
      .def_prop_ro("labels", [](const Classifier& one) { return one.model()->bundle().labels; })
      .def_prop_ro("max_length", [](const Classifier& one) { return one.model()->max_length(); });
}

}  // namespace atb
