#include "http_parser.h"

#include <algorithm>
#include <charconv>

namespace atb {
namespace {

bool same(std::string_view a, std::string_view b) {  // `b` is lower case
  const auto lower = [](char sign) { return sign >= 'A' && sign <= 'Z' ? static_cast<char>(sign + 32) : sign; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == y; });
}

/// Digits only, or nothing.
std::optional<std::size_t> number(std::string_view text) {
  std::size_t value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

}  // namespace

void HttpParser::on_request_impl(http::verb verb, text name, text target, int version, error_code& ec) {
  using Method = HttpRequest::Method;
  request_.method = verb == http::verb::post   ? Method::post
                    : verb == http::verb::get  ? Method::get
                    : verb == http::verb::head ? Method::head
                                               : Method::other;
  request_.verb.assign(name.data(), name.size());
  request_.target.assign(target.data(), target.size());
  request_.http10 = version == 10;
  if (version != 10 && version != 11) {
    ec = http::error::bad_version;
  }
}

void HttpParser::on_field_impl(http::field field, text name, text value, error_code& ec) {
  const std::string_view what(value.data(), value.size());
  const auto keep = [&](std::string& slot) {
    request_.repeated = request_.repeated || !slot.empty();
    slot = what;
  };
  switch (field) {
    case http::field::host:
      keep(request_.host);
      break;
    case http::field::origin:
      keep(request_.origin);
      break;
    case http::field::authorization:
      keep(request_.authorization);
      break;
    case http::field::expect:
      expects_ = same(what, "100-continue");
      break;
    case http::field::content_encoding:
      request_.encoded = !same(what, "identity");
      break;
    case http::field::transfer_encoding:
      if (!same(what, "chunked")) {  // any other is not ours to undo, and a body that two read differently is an attack
        ec = http::error::bad_transfer_encoding;
      }
      break;
    case http::field::unknown: {
      const std::string_view header(name.data(), name.size());
      if (same(header, "inference-header-content-length")) {
        const auto bytes = number(what);
        request_.repeated = request_.repeated || request_.json_bytes || !bytes;
        request_.json_bytes = bytes;
      } else if (same(header, "x-request-timeout-ms")) {
        if (const auto ms = number(what); ms && *ms > 0) {
          request_.timeout = std::chrono::milliseconds(std::min<std::size_t>(*ms, 1U << 30));
        } else {
          request_.repeated = true;
        }
      }
      break;
    }
    default:
      break;
  }
}

void HttpParser::on_header_impl(error_code& ec) {
  request_.keep_alive = keep_alive();
  if (request_.repeated || (request_.host.empty() && !request_.http10)) {
    ec = http::error::bad_field;
  }
}

std::size_t HttpParser::on_body_impl(text body, error_code&) {
  request_.body.append(body.data(), body.size());
  return body.size();
}

void HttpParser::on_finish_impl(error_code&) {}

}  // namespace atb
