// Engines of OpenVINO: an ONNX file or its IR, compiled with the options of runtime/backends/openvino/core.py, so that
// the answers are those of the Python engine, bit for bit.
#include <algorithm>
#include <array>
#include <mutex>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>
#include <optional>
#include <vector>

#include "atb/error.h"
#include "engine/backend.h"
#include "engine/openvino_precision.h"

namespace atb {
namespace {

/// One of a process: making it costs far more than compiling a tiny model.
ov::Core& core() {
  static ov::Core one;
  return one;
}

/// The end of OpenVINO's message: what comes before are addresses in its own source.
std::string short_of(const std::exception& error) {
  std::string text = error.what();
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  constexpr std::size_t kMost = 400;
  if (text.size() > kMost) text = "..." + text.substr(text.size() - kMost);
  std::ranges::replace(text, '\n', ' ');
  return text;
}

/// The ONNX name of a model's input or output, which may have several.
template <typename Node>
std::string name_of(const ov::Output<Node>& port) {
  std::string name = port.get_node()->get_friendly_name();
  constexpr std::string_view ending = "/sink_port_0";
  if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  const auto& known = port.get_names();
  if (known.empty() || known.contains(name)) return name;
  return *std::ranges::min_element(known);
}

/// The place of each of `kInputNames` among the model's inputs.
using Places = std::array<std::optional<std::size_t>, 3>;

/// A compiled model and its own streams. Sessions of one slot wait for each other where it has fewer streams than they.
struct Slot {
  std::once_flag made;
  ov::CompiledModel compiled;
};

class OpenVinoSession : public Session {
 public:
  OpenVinoSession(std::shared_ptr<Slot> slot, const Target& target, const Places& places, std::size_t output)
      : slot_(std::move(slot)),
        request_(slot_->compiled.create_infer_request()),
        target_(target),
        places_(places),
        output_(output) {
    if (target.dynamic) {
      for (std::size_t i = 0; i < places_.size(); ++i)
        if (places_[i]) room_[i].resize(target.batch * target.length);
      return;
    }
    // Static shapes never move the request's own buffers: they are bound once, and filled in place.
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i]) bound_[i] = span_of(request_.get_input_tensor(*places_[i]));
    logits_ = answer();
  }

  Inputs inputs(std::size_t batch, std::size_t length) override {
    const bool fits = target_.dynamic ? batch >= 1 && batch <= target_.batch && length >= 1 && length <= target_.length
                                      : batch == target_.batch && length == target_.length;
    if (!fits)
      throw Error(Kind::internal, target_.label() + " was asked for rows of [" + std::to_string(batch) + ", " +
                                      std::to_string(length) + "]");
    if (target_.dynamic) {
      for (std::size_t i = 0; i < places_.size(); ++i) {
        if (!places_[i]) continue;
        bound_[i] = std::span(room_[i]).first(batch * length);
        request_.set_input_tensor(*places_[i], ov::Tensor(ov::element::i64, {batch, length}, bound_[i].data()));
      }
    }
    return {.ids = bound_[0], .mask = bound_[1], .types = bound_[2]};
  }

  std::span<const float> run() override {
    try {
      request_.infer();
      return target_.dynamic ? answer() : logits_;
    } catch (const std::exception& error) {
      throw Error(Kind::internal, target_.label() + " failed: " + short_of(error));
    }
  }

 private:
  std::shared_ptr<Slot> slot_;
  ov::InferRequest request_;
  Target target_;
  Places places_;
  std::size_t output_;
  std::array<std::vector<std::int64_t>, 3> room_;  // of a dynamic engine
  std::array<std::span<std::int64_t>, 3> bound_;
  std::span<const float> logits_;

  static std::span<std::int64_t> span_of(ov::Tensor tensor) { return {tensor.data<std::int64_t>(), tensor.get_size()}; }
  std::span<const float> answer() {
    const ov::Tensor tensor = request_.get_output_tensor(output_);
    return {tensor.data<const float>(), tensor.get_size()};
  }
};

/// What a model keeps a copy of in every slot: the weights of its products. Tables of words stay where they are.
std::size_t copied_bytes(const ov::Model& model) {
  std::size_t bytes = 0;
  for (const auto& op : model.get_ops()) {
    const auto constant = std::dynamic_pointer_cast<const ov::op::v0::Constant>(op);
    if (!constant) continue;
    const auto readers = constant->output(0).get_target_inputs();
    const bool table = std::ranges::any_of(
        readers, [](const auto& x) { return std::string_view(x.get_node()->get_type_name()) == "Gather"; });
    if (!table) bytes += constant->get_byte_size();
  }
  return bytes;
}

ov::AnyMap options(const Target& target, unsigned streams) {
  ov::AnyMap options{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  if (target.device == "CPU") {
    options.insert(ov::inference_num_threads(static_cast<std::int32_t>(target.threads * streams)));
    options.insert(ov::num_streams(static_cast<std::int32_t>(streams)));
    options.insert(ov::hint::enable_cpu_pinning(false));  // who calls pins threads of their own
  }
  if (target.precision != "auto")
    options.insert({ov::hint::inference_precision.name(), target.precision == "int8" ? "f32" : target.precision});
  return options;
}

/// Sessions run side by side in slots of their own: on two cores two slots answered 43,000 rows a second in 45 us each,
/// one slot of two streams 36,000 in 54 us (and 65 us where one of them ran alone). Each slot copies the weights, so
/// that models too large for it share one with a stream for each session.
class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const EngineEntry& entry, std::shared_ptr<ov::Model> model, const Places& places, std::size_t output,
                 unsigned at_once)
      : target_(entry.target), model_(std::move(model)), places_(places), output_(output) {
    constexpr std::size_t kMostCopied = 256 << 20;
    const bool copies = copied_bytes(*model_) * at_once <= kMostCopied;
    slots_most_ = copies ? at_once : 1;
    streams_ = copies ? 1 : at_once;
    const std::shared_ptr<Slot> first = slot();
    const ov::Output<const ov::Node> logits = first->compiled.outputs()[output];
    const ov::PartialShape answer = logits.get_partial_shape();
    if (logits.get_element_type() != ov::element::f32 || answer.size() != 2 || answer[1].is_dynamic())
      refuse_entry(entry, "its logits are not float32 [batch, labels]");
    if (!target_.dynamic && answer[0] != ov::Dimension(static_cast<std::int64_t>(target_.batch)))
      refuse_entry(entry, "its logits do not follow the rows it is given");
    labels_ = static_cast<std::size_t>(answer[1].get_length());
    precision_ = precision_of(first->compiled);
    if (target_.precision != "auto" && target_.precision != precision_)
      refuse_entry(entry, other_precision(target_, precision_, *model_));
  }

  [[nodiscard]] const Target& target() const override { return target_; }
  [[nodiscard]] std::string effective_precision() const override { return precision_; }
  [[nodiscard]] std::size_t labels() const override { return labels_; }
  [[nodiscard]] std::unique_ptr<Session> session() const override {
    try {
      return std::make_unique<OpenVinoSession>(slot(), target_, places_, output_);
    } catch (const ov::Exception& error) {
      throw Error(Kind::internal, target_.label() + " has no further session: " + short_of(error));
    }
  }

 private:
  Target target_;
  std::string precision_;
  std::size_t labels_ = 0;
  std::shared_ptr<ov::Model> model_;
  Places places_;
  std::size_t output_;
  unsigned slots_most_ = 1, streams_ = 1;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<Slot>> slots_;

  /// The one of fewest sessions, compiled when it is first used; several may be compiled at a time.
  [[nodiscard]] std::shared_ptr<Slot> slot() const {
    std::shared_ptr<Slot> chosen;
    std::shared_ptr<ov::Model> model;
    {
      const std::scoped_lock lock(mutex_);
      const auto least = std::ranges::min_element(slots_, {}, [](const auto& x) { return x.use_count(); });
      const bool idle = least != slots_.end() && least->use_count() == 1;
      chosen = idle || slots_.size() >= slots_most_ ? *least : slots_.emplace_back(std::make_shared<Slot>());
      model = model_->clone();
    }
    std::call_once(chosen->made,
                   [&] { chosen->compiled = core().compile_model(model, target_.device, options(target_, streams_)); });
    return chosen;
  }
};

class OpenVino : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "openvino"; }

  [[nodiscard]] std::string refusal(const Target& target) const override {
    try {
      if (target.device != "CPU") {  // whose plugin is always there; listing the others loads them all
        const auto devices = core().get_available_devices();
        if (std::ranges::find(devices, target.device) == devices.end()) {
          std::string have;
          for (const auto& device : devices) have += (have.empty() ? "" : ", ") + device;
          return "OpenVINO has no device " + target.device + " here; it has " + have;
        }
      }
      if (target.precision == "auto") return {};
      const auto capabilities = core().get_property(target.device, ov::device::capabilities);
      if (std::ranges::find(capabilities, capability(target.precision)) == capabilities.end())
        return target.device + " has no " + target.precision + " here";
    } catch (const std::exception& error) {
      return "OpenVINO does not start: " + short_of(error);
    }
    return {};
  }

  [[nodiscard]] std::shared_ptr<const Engine> open(const EngineEntry& entry, unsigned at_once) const override {
    std::shared_ptr<ov::Model> model;
    try {
      model = core().read_model(entry.artifact.string());
    } catch (const std::exception& error) {
      refuse_entry(entry, "OpenVINO cannot read it: " + short_of(error));
    }
    const Places places = reshape(*model, entry);
    const std::size_t output = find_output(*model, entry);
    try {
      return std::make_shared<OpenVinoEngine>(entry, std::move(model), places, output, at_once);
    } catch (const ov::Exception& error) {
      refuse_entry(entry, "OpenVINO cannot compile it: " + short_of(error));
    }
  }

 private:
  static std::string capability(const std::string& precision) {
    if (precision == "f32") return "FP32";
    if (precision == "f16") return "FP16";
    return precision == "bf16" ? "BF16" : "INT8";
  }

  /// Sets every input to [batch, length], or to any up to it. Refuses inputs that texts cannot fill.
  static Places reshape(ov::Model& model, const EngineEntry& entry) {
    const Target& target = entry.target;
    const std::array<std::size_t, 2> most{target.batch, target.length};
    Places places;
    std::map<ov::Output<ov::Node>, ov::PartialShape> shapes;
    for (std::size_t i = 0; i < model.inputs().size(); ++i) {
      const ov::Output<ov::Node> port = model.inputs()[i];
      const std::string name = name_of(port);
      const auto known = std::ranges::find(kInputNames, name, [](const char* x) { return std::string_view(x); });
      if (known == std::end(kInputNames))
        refuse_entry(entry, "the model takes " + name + "; texts give only input_ids, attention_mask, token_type_ids");
      if (port.get_element_type() != ov::element::i64)
        refuse_entry(entry, name + " is " + port.get_element_type().get_type_name() + ", tokens are i64");
      const ov::PartialShape have = port.get_partial_shape();
      if (have.size() != 2) refuse_entry(entry, name + " is not [batch, sequence]");
      ov::PartialShape wanted = have;
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const auto size = static_cast<std::int64_t>(most[axis]);
        if (have[axis].is_static() && have[axis].get_length() != size)
          refuse_entry(entry, "the model fixes " + name + " at " + have.to_string());
        wanted[axis] =
            target.dynamic && size > 1 && have[axis].is_dynamic() ? ov::Dimension(1, size) : ov::Dimension(size);
      }
      shapes[port] = wanted;
      places[static_cast<std::size_t>(known - std::begin(kInputNames))] = i;
    }
    try {
      model.reshape(shapes);
    } catch (const std::exception& error) {
      refuse_entry(entry, "OpenVINO cannot give it this shape: " + short_of(error));
    }
    return places;
  }

  static std::size_t find_output(const ov::Model& model, const EngineEntry& entry) {
    std::string have;
    for (std::size_t i = 0; i < model.outputs().size(); ++i) {
      const std::string name = name_of(model.outputs()[i]);
      if (name == kOutputName) return i;
      have += " " + name;
    }
    refuse_entry(entry, std::string("the model has no output ") + kOutputName + "; it has" + have);
  }
};

}  // namespace

const Backend& openvino_backend() {
  static const OpenVino one;
  return one;
}

}  // namespace atb
