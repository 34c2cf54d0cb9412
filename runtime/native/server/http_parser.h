// Beast's parser of HTTP/1 messages, keeping the few fields that we read.
#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <cstddef>
#include <string_view>

#include "exchange.h"

namespace atb {

namespace http = boost::beast::http;
using boost::system::error_code;

class HttpParser final : public http::basic_parser<true> {
 public:
  HttpParser(HttpRequest& request, std::size_t header_bytes, std::size_t body_bytes) : request_(request) {
    header_limit(static_cast<std::uint32_t>(header_bytes));
    body_limit(body_bytes);
    eager(true);
  }
  [[nodiscard]] bool expects_continue() const noexcept { return expects_; }

 private:
  using text = boost::beast::string_view;
  void on_request_impl(http::verb verb, text name, text target, int version, error_code& ec) override;
  void on_field_impl(http::field field, text name, text value, error_code& ec) override;
  void on_trailer_field_impl(http::field, text, text, error_code&) override {}  // nobody checked who sent it
  void on_header_impl(error_code& ec) override;
  void on_body_init_impl(boost::optional<std::uint64_t> const&, error_code&) override {}
  std::size_t on_body_impl(text body, error_code& ec) override;
  void on_chunk_header_impl(std::uint64_t, text, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, text body, error_code& ec) override { return on_body_impl(body, ec); }
  void on_finish_impl(error_code& ec) override;
  void on_response_impl(int, text, int, error_code&) override {}

  HttpRequest& request_;
  bool expects_ = false;
};

}  // namespace atb
