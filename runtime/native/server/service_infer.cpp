// The way of a request to a model: read and tokenised, queued, answered.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "json_writer.h"
#include "protocol_tei.h"
#include "service.h"

namespace atb {
namespace {

constexpr std::chrono::milliseconds most_help{3};  // before it is looked who else asks

void write_timing(std::string& fields, const Timing& timing) {
  const auto part = [&](std::string_view name, std::chrono::nanoseconds time) {
    (fields += name) += ";dur=";  // milliseconds
    write_fixed(fields, static_cast<double>(time.count()) * 1e-6, 3);
  };
  part("Server-Timing: tokenise", timing.tokenise);
  part(", queue", timing.queue);
  part(", engine", timing.engine);
  part(", total", timing.total);
  fields += "\r\n";
}

}  // namespace

void Service::infer(Exchange& exchange) {
  if (exchange.model->batcher().full()) {  // before it costs anything
    full_ = true;
    return refuse(exchange, Kind::overloaded, explain(Kind::overloaded, *exchange.model), retry_after(*exchange.model));
  }
  const auto& asked = exchange.request.timeout;
  const auto most = std::chrono::microseconds(shared_.options.deadline);
  exchange.deadline = exchange.received + (asked ? std::min(most, std::chrono::microseconds(*asked)) : most);
  if (exchange.request.body.size() <= inline_bytes) {
    read(exchange);
    return start(exchange);
  }
  // Reading and tokenising a large request takes milliseconds: small ones do not wait for it.
  exchange.away = true;
  boost::asio::post(shared_.readers, [this, self = exchange.shared_from_this()] {
    std::optional<Error> failure;
    try {
      if (Clock::now() < self->deadline) {
        read(*self);
      }
    } catch (const Error& error) {
      failure = error;
    } catch (const std::exception&) {
      failure = Error(Kind::internal, "the server cannot read this request now");
    }
    self->post([this, self, failure] {
      self->away = false;
      if (self->gone) {
        return;
      }
      failure ? refuse(*self, failure->kind(), failure->what()) : start(*self);
    });
  });
}

/// Touches nothing but the exchange.
void Service::read(Exchange& exchange) const {
  const auto begun = Clock::now();
  const InputLimits limits{shared_.options.rows, shared_.options.text_bytes};
  const HttpRequest& request = exchange.request;
  const std::string_view body = request.body;
  const std::size_t json_bytes = request.json_bytes.value_or(body.size());
  if (json_bytes > body.size()) {
    throw Error(Kind::invalid, "Inference-Header-Content-Length says " + std::to_string(json_bytes) +
                                   " bytes, and the body has " + std::to_string(body.size()));
  }
  try {
    JsonReader json(body.substr(0, json_bytes));
    if (exchange.predict) {
      const tei::Request read = tei::read_predict(json, limits);
      exchange.batch = read.batch;
      exchange.raw_scores = read.raw_scores;
      exchange.work = encode(exchange.model, read.texts, limits, read.truncate);
    } else {
      const oip::Request read = oip::read_infer(json, body.substr(json_bytes), limits, exchange.reply);
      if (read.timeout) {
        exchange.deadline = std::min(exchange.deadline, exchange.received + *read.timeout);
      }
      exchange.work = encode(exchange.model, read.inputs, limits);
    }
  } catch (const JsonError&) {
    exchange.predict = false;  // 422 is for JSON that says something wrong; this is none
    throw;
  }
  exchange.timing.tokenise = Clock::now() - begun;
}

void Service::start(Exchange& exchange) {
  if (exchange.gone) {
    return exchange.work.reset();
  }
  if (Clock::now() >= exchange.deadline || exchange.work == nullptr) {
    exchange.work.reset();
    return refuse(exchange, Kind::expired, explain(Kind::expired, *exchange.model));
  }
  const auto work = exchange.work;
  const auto model = exchange.model;  // the exchange may be answered, and renewed, within `start`
  const bool helper = model->batcher().helps();
  ++shared_.under_way;
  const auto done = [this, self = exchange.shared_from_this()](Inference& answered) {
    self->post([this, self, answer = answered.shared_from_this()] { finish(*self, answer); });
    --shared_.under_way;
  };
  work->start(exchange.deadline, done, helper);
  if (helper && std::find(waiting_.begin(), waiting_.end(), model) == waiting_.end()) {
    waiting_.push_back(model);
    if (waiting_.size() == 1) {
      help_later();
    }
  }
}

/// Behind what is ready to be read: those requests go into the same batches. Then for as long as reading took; but
/// where more comes than can be computed, one batch at a time, for who is refused is to know it at once.
void Service::help_later() {
  boost::asio::post(io_, [this] {
    const auto begun = Clock::now();
    const auto reading = std::min<Clock::duration>(begun - helped_, most_help);
    const auto until = std::exchange(full_, false) ? begun : begun + reading;
    bool more = help();
    while (more && Clock::now() < until) {
      more = help();
    }
    helped_ = Clock::now();
    if (more) {
      help_later();
    }
  });
}

bool Service::help() {
  if (waiting_.empty()) {
    return false;
  }
  const auto model = std::move(waiting_.front());  // models take turns
  waiting_.pop_front();
  if (model->batcher().help()) {
    waiting_.push_back(model);
  }
  return !waiting_.empty();
}

void Service::finish(Exchange& exchange, const std::shared_ptr<Inference>& work) {
  if (exchange.work != work) {
    return;  // its client was told something else meanwhile, or has gone
  }
  exchange.work.reset();
  if (const auto why = work->refused()) {
    return refuse(exchange, *why, explain(*why, *exchange.model), retry_after(*exchange.model));
  }
  HttpResponse& response = exchange.response;
  if (exchange.predict) {
    tei::write_predict(*work, exchange.batch, exchange.raw_scores, response.body);
  } else if (const auto json_bytes = oip::write_infer(*work, exchange.reply, response.body)) {
    response.type = "application/octet-stream";
    response.fields += "Inference-Header-Content-Length: ";
    write_number(response.fields, *json_bytes);
    response.fields += "\r\n";
  }
  exchange.timing.queue = work->queue_time();
  exchange.timing.engine = work->engine_time();
  exchange.timing.total = Clock::now() - exchange.received;
  write_timing(response.fields, exchange.timing);
  exchange.metrics->answered(exchange.timing, work->rows(), work->batch());
  exchange.respond();
}

void Service::expire(Exchange& exchange) {
  if (const auto work = std::exchange(exchange.work, nullptr)) {
    work->abandon();
    refuse(exchange, Kind::expired, explain(Kind::expired, *exchange.model));
  }
}

void Service::abandon(Exchange& exchange) {
  if (const auto work = std::exchange(exchange.work, nullptr)) {
    work->abandon();
    exchange.metrics->refused(Kind::cancelled, Clock::now() - exchange.received);
  }
}

}  // namespace atb
