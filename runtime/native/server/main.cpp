// atb-server: reads its options, binds, loads, serves, drains.
#include <unistd.h>

#include <atomic>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <thread>

#include "json_writer.h"
#include "options.h"

namespace {

enum Exit { drained = 0, drain_timed_out = 1, usage = 2, no_model = 3, no_port = 4 };

std::atomic<atb::Server*> serving = nullptr;  // for the handler of signals

void on_signal(int) {
  if (atb::Server* server = serving) {
    server->stop();
  }
}

void listen_to_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

void complain(const char* message) { std::fprintf(stderr, "atb-server: %s\n", message); }

void warn(const atb::ServerOptions& options) {
  boost::system::error_code ec;
  const auto address = boost::asio::ip::make_address(options.host, ec);
  const bool local = ec ? options.host == "localhost" : address.is_loopback();
  if (!local && options.token.empty()) {
    complain("warning: anyone who reaches this machine is served; --token-file asks for a token");
  }
  if (!local && options.certificate.empty()) {
    complain("warning: texts and tokens travel in the clear; --certificate and --key, or a proxy with TLS before this");
  }
}

using Loads = std::vector<std::pair<std::string, double>>;  // name, seconds

Loads load(atb::Registry& registry, const atb::CommandLine& line) {
  Loads loads;
  for (const auto& [name, folder] : line.models) {
    const auto begun = atb::Clock::now();
    registry.load(name);
    loads.emplace_back(name, std::chrono::duration<double>(atb::Clock::now() - begun).count());
  }
  return loads;
}

void say_ready(const atb::Server& server, const atb::CommandLine& line, const Loads& loads) {
  const std::string& host = line.server.host;
  const std::string url = (line.server.certificate.empty() ? "http://" : "https://") +
                          (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
                          std::to_string(server.port());
  std::string text =
      "ready on " + url + (server.grpc_port() != 0 ? ", gRPC on port " + std::to_string(server.grpc_port()) : "");
  if (line.json_ready) {
    text = R"({"ready":)";
    atb::write_string(text, url);
    text += ",\"port\":" + std::to_string(server.port()) + ",\"grpc_port\":" + std::to_string(server.grpc_port()) +
            ",\"load_s\":{";
    for (const auto& [name, seconds] : loads) {
      text += text.back() == '{' ? "" : ",";
      atb::write_string(text, name);
      text += ':';
      atb::write_fixed(text, seconds, 3);
    }
    text += "}}";
  }
  std::puts(text.c_str());
  std::fflush(stdout);
}

int serve(const atb::CommandLine& line) {
  atb::Registry registry;
  for (const auto& [name, folder] : line.models) {
    registry.add(name, folder, line.model);
  }
  std::optional<atb::Server> server;
  try {
    server.emplace(registry, line.server);
  } catch (const atb::Error& error) {
    complain(error.what());
    return error.kind() == atb::Kind::unavailable ? no_port : usage;
  }
  warn(line.server);
  serving = &*server;
  listen_to_signals();

  // Health is answered while models load: alive, not ready.
  std::atomic<bool> failed = false, loading = true;
  std::jthread loader([&] {
    try {
      say_ready(*server, line, load(registry, line));
    } catch (const std::exception& error) {
      complain(error.what());
      failed = true;
      server->stop();
    }
    loading = false;
  });
  const bool in_time = server->run();
  if (loading) {  // compiling cannot be interrupted, and nobody waits for its end
    std::_Exit(failed ? no_model : drained);
  }
  loader.join();
  const int code = failed ? no_model : in_time ? drained : drain_timed_out;
  if (!in_time) {
    std::_Exit(code);
  }
  serving = nullptr;
  return code;
}

}  // namespace

int main(int count, char** values) {
  try {
    const atb::CommandLine line = atb::read_command_line({values + 1, values + count});
    if (line.help) {
      std::fputs(atb::help().c_str(), stdout);
      return drained;
    }
    return serve(line);
  } catch (const std::exception& error) {
    complain(error.what());
    return usage;
  }
}
