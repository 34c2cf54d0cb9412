// Requests with binary tensors: a byte with the length of the JSON, the JSON, the tensors.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "../server_fakes.h"
#include "server/protocol_oip.h"

namespace atb {
namespace {

void law(bool holds) {
  if (!holds) {
    std::abort();
  }
}

void read(const std::string& text, std::string_view raw) {
  static const auto model = test::fake_model(std::make_shared<test::Behaviour>());
  constexpr InputLimits limits{.rows = 4, .text_bytes = 256};
  JsonReader json(text);
  oip::Reply reply;
  const auto request = oip::read_infer(json, raw, limits, reply);
  for (const InputTensor& input : request.inputs) {
    law(input.texts.size() <= raw.size() + text.size());
    for (const std::string_view element : input.texts) {
      law(element.size() <= raw.size() + text.size());
    }
  }
  const auto work = encode(model, request.inputs, limits);
  law(work->rows() >= 1 && work->rows() <= limits.rows);
  for (std::size_t row = 0; row < work->rows(); ++row) {
    const Encoding& tokens = work->tokens(row);
    law(tokens.size() >= 1 && tokens.size() <= model->max_length() && tokens.types.size() == tokens.size());
    for (const std::int32_t id : tokens.ids) {
      law(id >= 0 && static_cast<std::size_t>(id) < model->tokenizer().vocabulary_size());
    }
  }
}

}  // namespace
}  // namespace atb

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) {
    return 0;
  }
  const std::string_view all(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t json = std::min<std::size_t>(data[0] * 2U, all.size());
  try {
    atb::read(std::string(all.substr(0, json)), all.substr(json));
  } catch (const atb::Error&) {  // NOLINT: how every reader refuses
  }
  return 0;
}
