#include "exchange.h"

namespace atb {
namespace {

constexpr std::size_t kept_bytes = 64 * 1024;  // of a buffer, from request to request

void empty(std::string& text) {
  if (text.capacity() > kept_bytes) {
    std::string().swap(text);
  } else {
    text.clear();
  }
}

}  // namespace

void HttpRequest::clear() {
  method = Method::other;
  http10 = keep_alive = encoded = repeated = false;
  json_bytes.reset();
  timeout.reset();
  verb.clear();
  target.clear();
  host.clear();
  origin.clear();
  authorization.clear();
  empty(body);
}

void HttpResponse::clear() {
  status = 200;
  type = "application/json";
  fields.clear();
  empty(body);
}

void Exchange::renew() {
  request.clear();
  response.clear();
  predict = batch = raw_scores = away = false;
  model.reset();
  metrics = nullptr;
  work.reset();
  deadline = Clock::time_point::max();
  timing = {};
  refused.reset();
}

}  // namespace atb
