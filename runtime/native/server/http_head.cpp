#include "http_head.h"

#include <array>
#include <ctime>

#include "json_writer.h"

namespace atb {
namespace {

std::string_view reason(unsigned status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Internal Server Error";
  }
}

/// Bytes of a request line or field, which need not be UTF-8.
void write_foreign(std::string& out, std::string_view text) {
  if (valid_utf8(text)) {
    return write_string(out, text);
  }
  std::string shown(text);
  for (char& sign : shown) {
    sign = static_cast<unsigned char>(sign) < 0x80 ? sign : '?';
  }
  write_string(out, shown);
}

void write_time(std::string& out) {
  using namespace std::chrono;
  const auto now = system_clock::now();
  const std::time_t second = system_clock::to_time_t(now);
  thread_local std::time_t shown = -1;
  thread_local std::array<char, 32> text{};
  if (shown != second) {
    shown = second;
    std::tm parts{};
    gmtime_r(&second, &parts);
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &parts);
  }
  const auto ms = duration_cast<milliseconds>(now.time_since_epoch()).count() % 1000;
  out += text.data();
  out += static_cast<char>('0' + ms / 100);
  out += static_cast<char>('0' + ms / 10 % 10);
  out += static_cast<char>('0' + ms % 10);
  out += 'Z';
}

}  // namespace

void write_head(std::string& out, const Exchange& exchange, std::string_view date, bool close) {
  const HttpResponse& response = exchange.response;
  out = "HTTP/1.1 ";
  write_number(out, response.status);
  ((out += ' ') += reason(response.status)) += "\r\n";
  out += date;
  ((out += "Content-Type: ") += response.type) += "\r\nContent-Length: ";
  write_number(out, response.body.size());
  out += "\r\n";
  if (close) {
    out += "Connection: close\r\n";
  } else if (exchange.request.http10) {
    out += "Connection: keep-alive\r\n";
  }
  (out += response.fields) += "\r\n";
}

void write_log_line(std::string& out, const Exchange& exchange, std::string_view remote) {
  const auto number = [&](const char* name, auto value) {
    ((out += ",\"") += name) += "\":";
    write_number(out, value);
  };
  const auto time = [&](const char* name, std::chrono::nanoseconds value) {
    ((out += ",\"") += name) += "\":";
    write_fixed(out, static_cast<double>(value.count()) * 1e-3, 1);
  };
  out = R"({"time":")";
  write_time(out);
  ((out += R"(","remote":")") += remote) += R"(","method":)";
  write_foreign(out, exchange.request.verb);
  out += R"(,"target":)";
  write_foreign(out, exchange.request.target);
  number("status", exchange.response.status);
  number("bytes_in", exchange.request.body.size());
  number("bytes_out", exchange.response.body.size());
  if (exchange.metrics != nullptr) {
    out += R"(,"model":)";
    write_string(out, exchange.reply.model);
    out += R"(,"version":)";
    write_string(out, exchange.reply.version);
    if (!exchange.reply.id.empty()) {
      out += R"(,"id":)";
      write_string(out, exchange.reply.id);
    }
    time("tokenise_us", exchange.timing.tokenise);
    time("queue_us", exchange.timing.queue);
    time("engine_us", exchange.timing.engine);
  }
  time("total_us", exchange.timing.total.count() > 0 ? exchange.timing.total : Clock::now() - exchange.received);
  out += "}\n";
}

}  // namespace atb
