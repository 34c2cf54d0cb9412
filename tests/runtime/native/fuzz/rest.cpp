// Requests as they come from a socket, and the JSON in them. The first byte says which reader gets the rest.
#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../server_fakes.h"
#include "server/http_parser.h"
#include "server/path.h"
#include "server/protocol_oip.h"
#include "server/protocol_tei.h"

namespace atb {
namespace {

constexpr InputLimits limits{.rows = 4, .text_bytes = 256};

void law(bool holds) {
  if (!holds) {
    std::abort();
  }
}

const std::shared_ptr<Model>& model() {
  static const auto made = test::fake_model(std::make_shared<test::Behaviour>());
  return made;
}

void check(const Inference& work) { law(work.rows() >= 1 && work.rows() <= limits.rows); }

/// All requests of a stream that comes in pieces, and whether it broke.
std::string requests_in(std::string_view stream, std::size_t piece) {
  std::string seen;
  std::string buffer;
  HttpRequest request;
  std::optional<HttpParser> parser;
  parser.emplace(request, 512, 512);
  do {
    const std::size_t size = std::min(piece, stream.size());
    buffer.append(stream.substr(0, size));
    stream.remove_prefix(size);
    for (;;) {
      error_code ec;
      const std::size_t used = buffer.empty() ? 0 : parser->put(boost::asio::buffer(buffer), ec);
      buffer.erase(0, used);
      if (ec && ec != http::error::need_more) {
        return seen + "broken";
      }
      law(request.body.size() <= 512);
      if (!parser->is_done()) {
        if (used == 0 || buffer.empty()) {
          break;
        }
        continue;
      }
      seen += request.verb + ' ' + request.target + '\n' + request.body + (request.keep_alive ? "\n+\n" : "\n-\n");
      request.clear();
      parser.emplace(request, 512, 512);
    }
  } while (!stream.empty());
  return seen;
}

void read_http(std::string_view text) {
  // Where a header grows over its limit depends on the pieces; what was read before does not.
  const std::string whole = requests_in(text, text.size() + 1), bytes = requests_in(text, 1);
  const std::size_t common = std::min(whole.size(), bytes.size());
  law(whole.ends_with("broken") || bytes.ends_with("broken") || whole == bytes);
  law(whole.compare(0, common - std::min<std::size_t>(common, 6), bytes, 0,
                    common - std::min<std::size_t>(common, 6)) == 0);
}

/// What another parser says of a text: 0 for JSON, else the number of its error.
class Other : public nlohmann::json_sax<nlohmann::json> {
 public:
  int error = 0;
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& what) override {
    error = what.id;
    return false;
  }
};

void read_json(const std::string& text) {
  bool taken = true;
  try {
    JsonReader json(text);
    json.skip();
    json.end();
  } catch (const JsonError&) {
    taken = false;
  }
  const bool deep =
      std::count_if(text.begin(), text.end(), [](char c) { return c == '[' || c == '{'; }) > JsonReader::most_depth;
  Other other;
  nlohmann::json::sax_parse(text, &other);
  constexpr int too_large = 406;                   // a number; ours skips it unread
  const bool ends = text.find('\0') != text.npos;  // for the other reader the text would end there
  law(deep || ends || other.error == too_large || taken == (other.error == 0));
}

void read_predict(const std::string& text) {
  JsonReader json(text);
  const auto request = tei::read_predict(json, limits);
  check(*encode(model(), request.texts, limits, request.truncate));
}

void read_infer(const std::string& text) {
  JsonReader json(text);
  oip::Reply reply;
  const auto request = oip::read_infer(json, "", limits, reply);
  law(!reply.outputs.empty() && reply.outputs.size() <= 3);
  check(*encode(model(), request.inputs, limits));
}

}  // namespace
}  // namespace atb

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 5) {
      case 0:
        atb::read_http(text);
        break;
      case 1:
        atb::read_json(text);
        break;
      case 2:
        atb::read_predict(text);
        break;
      case 3:
        atb::read_infer(text);
        break;
      default:
        atb::Path().read(text);
    }
  } catch (const atb::Error&) {  // NOLINT: how every reader refuses
  }
  return 0;
}
