#include "service.h"

#include <algorithm>
#include <boost/asio/post.hpp>

#include "describe.h"
#include "json_writer.h"
#include "page.h"
#include "protocol_tei.h"

namespace atb {
namespace {

using Method = HttpRequest::Method;

void write_error(HttpResponse& response, unsigned status, std::string_view name, std::string_view message) {
  response.clear();
  response.status = status;
  response.body += R"({"error":)";
  write_string(response.body, valid_utf8(message) ? message : "the request holds bytes that are not UTF-8");
  (response.body += R"(,"error_type":")") += name;
  response.body += "\"}";
}

/// Whether a browser says that a page of another site sent this.
bool foreign(const HttpRequest& request) {
  const std::string_view origin = request.origin;
  const auto host = origin.find("://");
  return !origin.empty() && (host == std::string_view::npos || origin.substr(host + 3) != request.host);
}

}  // namespace

void Service::refuse(Exchange& exchange, unsigned status, std::string_view name, std::string_view message,
                     std::string_view field) {
  exchange.timing.total = Clock::now() - exchange.received;
  shared_.metrics.refused(Kind::invalid);
  write_error(exchange.response, status, name, message);
  exchange.response.fields = field;
  exchange.respond();
}

void Service::refuse(Exchange& exchange, Kind why, std::string_view message, long retry_s) {
  const Status& status = status_of(why);
  exchange.refused = why;
  exchange.timing.total = Clock::now() - exchange.received;
  if (exchange.metrics != nullptr) {
    exchange.metrics->refused(why, exchange.timing.total);
  } else {
    shared_.metrics.refused(why);
  }
  write_error(exchange.response, exchange.predict ? status.predict : status.http, status.name, message);
  if (status.retry) {
    exchange.response.fields = "Retry-After: " + std::to_string(retry_s) + "\r\n";
  }
  exchange.respond();
}

void Service::handle(Exchange& exchange) {
  try {
    if (admit(exchange)) {
      route(exchange);
    }
  } catch (const Error& error) {
    refuse(exchange, error.kind(), error.what());
  } catch (const std::exception&) {  // memory
    refuse(exchange, Kind::internal, "the server cannot answer this request now");
  }
}

bool Service::admit(Exchange& exchange) {
  const HttpRequest& request = exchange.request;
  if (!path_.read(request.target)) {
    refuse(exchange, Kind::invalid, "the target of the request is no path");
    return false;
  }
  const bool probe = path_[0] == "health" || (path_[0] == "v2" && path_[1] == "health") || path_.size == 0;
  if (!shared_.options.token.empty() && !probe) {
    constexpr std::string_view scheme = "Bearer ";
    std::string_view given = request.authorization;
    given = given.starts_with(scheme) ? given.substr(scheme.size()) : std::string_view();
    if (!same_secret(given, shared_.options.token)) {
      refuse(exchange, 401, "unauthorized", "this server asks for its token: Authorization: Bearer TOKEN",
             "WWW-Authenticate: Bearer\r\n");
      return false;
    }
  }
  if (request.method == Method::post && foreign(request)) {
    refuse(exchange, 403, "forbidden", "requests from pages of other sites are not taken");
    return false;
  }
  if (request.encoded) {
    refuse(exchange, 415, "invalid", "bodies are taken as they are, without Content-Encoding");
    return false;
  }
  return true;
}

bool Service::get(Exchange& exchange) {
  const Method method = exchange.request.method;
  if (method == Method::get || method == Method::head) {
    return true;
  }
  refuse(exchange, 405, "invalid", "this path takes GET", "Allow: GET, HEAD\r\n");
  return false;
}

bool Service::post(Exchange& exchange) {
  if (exchange.request.method == Method::post) {
    return true;
  }
  refuse(exchange, 405, "invalid", "this path takes POST", "Allow: POST\r\n");
  return false;
}

void Service::route(Exchange& exchange) {
  std::string& body = exchange.response.body;
  const auto readiness = [&](std::string_view name, bool yes) {
    exchange.response.status = yes ? 200 : 503;
    ((body += "{\"") += name) += yes ? "\":true}" : "\":false}";
    exchange.respond();
  };
  const std::string_view first = path_[0];
  if (first == "v2") {
    if (path_.size == 1) {
      if (get(exchange)) {
        oip::write_server(body);
        exchange.respond();
      }
      return;
    }
    if (path_[1] == "models" && path_.size > 2) {
      return route_model(exchange);
    }
    if (path_[1] == "repository") {
      return route_repository(exchange);
    }
    if (path_[1] == "health" && path_.size == 3 && (path_[2] == "live" || path_[2] == "ready")) {
      if (get(exchange)) {
        path_[2] == "live" ? readiness("live", true) : readiness("ready", shared_.ready());
      }
      return;
    }
  } else if (first == "predict" && path_.size == 1) {
    exchange.predict = true;
    if (post(exchange)) {
      find(exchange, path_.model.empty() ? sole_model() : path_.model, "");
      infer(exchange);
    }
    return;
  } else if (first == "health" && path_.size == 1) {
    if (get(exchange)) {
      readiness("ready", shared_.ready());
    }
    return;
  } else if (first == "metrics" && path_.size == 1) {
    if (get(exchange)) {
      exchange.response.type = "text/plain; version=0.0.4; charset=utf-8";
      body = shared_.metrics.text(shared_.registry);
      exchange.respond();
    }
    return;
  } else if (first == "info" && path_.size == 1) {
    if (get(exchange)) {
      find(exchange, path_.model.empty() ? sole_model() : path_.model, "");
      tei::write_info(*exchange.model, shared_.options.rows, body);
      exchange.respond();
    }
    return;
  } else if (path_.size == 0 && shared_.options.page) {
    if (get(exchange)) {
      write_page(exchange.response);
      exchange.respond();
    }
    return;
  }
  refuse(exchange, Kind::not_found, "no such path; there are /v2, /predict, /health, /info and /metrics");
}

void Service::route_model(Exchange& exchange) {
  // models/NAME[/versions/VERSION][/ACTION]
  if (path_.size == 3 && path_[2] == "stats") {
    if (get(exchange)) {
      oip::write_statistics(shared_.registry, shared_.metrics, "", "", exchange.response.body);
      exchange.respond();
    }
    return;
  }
  const bool versioned = path_.size >= 5 && path_[3] == "versions";
  const std::size_t at = versioned ? 5 : 3;
  const std::string_view action = path_[at];
  const bool known =
      action.empty() || action == "infer" || action == "ready" || action == "config" || action == "stats";
  if (!known || path_.size > at + 1) {
    return refuse(exchange, Kind::not_found, "no such path; of a model there are infer, ready, config and stats");
  }
  if (action == "infer" ? !post(exchange) : !get(exchange)) {
    return;
  }
  const std::string of_version(versioned ? path_[4] : std::string_view());
  find(exchange, path_.parts[2], of_version);
  if (action == "infer") {
    return infer(exchange);
  }
  std::string& body = exchange.response.body;
  if (action == "ready") {
    body += R"({"name":)";
    write_string(body, exchange.reply.model);
    body += R"(,"ready":true})";
  } else if (action == "config") {
    oip::write_config(*exchange.model, exchange.reply, body);
  } else if (action == "stats") {
    oip::write_statistics(shared_.registry, shared_.metrics, path_.parts[2], of_version, body);
  } else {
    oip::write_model(*exchange.model, exchange.reply, body);
  }
  exchange.respond();
}

void Service::route_repository(Exchange& exchange) {
  if (path_.size == 3 && path_[2] == "index") {
    if (!post(exchange)) {
      return;
    }
    bool ready_only = false;
    if (!exchange.request.body.empty()) {
      JsonReader json(exchange.request.body);
      json.object("the request", [&](std::string_view key) {
        key == "ready" ? void(ready_only = json.boolean("ready")) : json.skip();
      });
      json.end();
    }
    oip::write_index(shared_.registry, ready_only, exchange.response.body);
    return exchange.respond();
  }
  if (path_.size == 5 && path_[2] == "models" && (path_[4] == "load" || path_[4] == "unload")) {
    if (!post(exchange)) {
      return;
    }
    if (!shared_.options.manage) {
      return refuse(exchange, 403, "forbidden", "this server lets no client load or unload; start it with --manage");
    }
    return manage(exchange);
  }
  refuse(exchange, Kind::not_found,
         "no such path; of the repository there are index, models/NAME/load and models/NAME/unload");
}

void Service::manage(Exchange& exchange) {
  const bool load = path_[4] == "load";
  if (load && !exchange.request.body.empty()) {
    JsonReader json(exchange.request.body);
    json.object("the request", [&](std::string_view key) {
      if (key != "parameters") {
        return json.skip();
      }
      json.object("parameters", [&](std::string_view name) {
        if (name == "config" || name.starts_with("file:")) {
          throw Error(Kind::invalid, "a model is loaded from its own folder; no files or configuration are taken");
        }
        json.skip();
      });
    });
    json.end();
  }
  exchange.away = true;
  const auto self = exchange.shared_from_this();
  boost::asio::post(shared_.managers, [this, self, load, name = path_.parts[3]] {
    std::optional<Error> failure;
    try {
      load ? shared_.registry.load(name) : shared_.registry.unload(name);
    } catch (const Error& error) {
      failure = error;
    } catch (const std::exception& error) {
      failure = Error(Kind::internal, error.what());
    }
    self->post([this, self, failure] {
      self->away = false;
      if (self->gone) {
        return;
      }
      self->response.body = "{}";
      failure ? refuse(*self, failure->kind(), failure->what()) : self->respond();
    });
  });
}

std::string Service::sole_model() const {
  std::string name, others;
  for (const auto& entry : shared_.registry.entries()) {
    if (entry.name != name) {
      others += (name.empty() ? "" : ", ") + entry.name;
      name = entry.name;
    }
  }
  if (name.empty()) {
    throw Error(Kind::unavailable, "no model is loaded yet");
  }
  if (others != name) {
    throw Error(Kind::invalid, "there are several models; name one of them by ?model=: " + others);
  }
  return name;
}

void Service::find(Exchange& exchange, const std::string& name, const std::string& wanted) {
  exchange.model = shared_.registry.find(name, wanted);
  ((key_ = name) += '/') += wanted;
  Known& known = known_[key_];
  if (known.metrics == nullptr || known.model.lock() != exchange.model) {
    known = {exchange.model, wanted, &shared_.metrics.of(name)};
    for (const auto& entry : shared_.registry.entries()) {
      if (entry.model == exchange.model && entry.name == name) {
        known.version = entry.version;
      }
    }
  }
  exchange.metrics = known.metrics;
  exchange.reply.model = name;
  exchange.reply.version = known.version;
}

}  // namespace atb
