#include "options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

namespace atb {
namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw Error(Kind::invalid, message + "; see atb-server --help");
}

template <class Number>
Number number(const std::string& option, const std::string& text, Number least, Number most) {
  Number value{};
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ec != std::errc() || read.ptr != text.data() + text.size() || value < least || value > most) {
    refuse(option + " is a number from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" + text +
           "'");
  }
  return value;
}

std::string first_line(const std::string& option, const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line.empty()) {
    refuse(option + " names a file whose first line is the token; " + path + " is none");
  }
  return line;
}

struct Option {
  const char *name, *value, *help;  // without value: a switch
  std::function<void(CommandLine&, const std::string& name, const std::string& value)> set;
};

template <class Member>
Option size_option(const char* name, const char* help, Member member, std::size_t most) {
  return {name, "N", help, [member, most](CommandLine& line, const std::string& option, const std::string& value) {
            line.server.*member = number<std::size_t>(option, value, 1, most);
          }};
}

Option time_option(const char* name, const char* help, std::chrono::milliseconds ServerOptions::*member) {
  return {name, "MS", help, [member](CommandLine& line, const std::string& option, const std::string& value) {
            line.server.*member = std::chrono::milliseconds(number<long>(option, value, 1, 86'400'000));
          }};
}

Option text_option(const char* name, const char* value, const char* help, std::string ServerOptions::*member) {
  return {name, value, help,
          [member](CommandLine& line, const std::string&, const std::string& text) { line.server.*member = text; }};
}

Option flag(const char* name, const char* help, bool ServerOptions::*member) {
  return {name, nullptr, help,
          [member](CommandLine& line, const std::string&, const std::string&) { line.server.*member = true; }};
}

void add_model(CommandLine& line, const std::string& text) {
  const auto sign = text.find('=');
  std::string name = sign == std::string::npos ? "" : text.substr(0, sign);
  const std::string folder = sign == std::string::npos ? text : text.substr(sign + 1);
  if (sign == std::string::npos) {
    const auto whole = std::filesystem::absolute(folder).lexically_normal();
    name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  }
  if (name.empty() || folder.empty()) {
    refuse("--model is NAME=FOLDER, not '" + text + "'");
  }
  line.models.emplace_back(std::move(name), folder);
}

const std::vector<Option>& options() {
  constexpr std::size_t any = std::size_t{1} << 30;
  static const std::vector<Option> all{
      {"--model", "NAME=FOLDER", "a bundle, or a folder of bundles named by version; repeatable",
       [](CommandLine& line, const std::string&, const std::string& value) { add_model(line, value); }},
      {"--name", "NAME", "the name of the one bundle given without one",
       [](CommandLine& line, const std::string&, const std::string& value) {
         if (line.models.size() != 1) {
           refuse("--name follows the one bundle that it names");
         }
         line.models.front().first = value;
       }},
      {"--engine", "LABEL", "which engines of the bundle: a label, a group or a backend (the first that runs here)",
       [](CommandLine& line, const std::string&, const std::string& value) { line.model.engine = value; }},
      {"--workers", "N", "threads that compute, of each model (one a core)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.model.batcher.workers = number(option, value, 1U, 1024U);
       }},
      {"--queue", "ROWS", "rows that may wait, of each model (512)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.model.batcher.queue = number<std::size_t>(option, value, 1, any);
       }},
      {"--wait-us", "US", "how long a row waits for others to make a batch (0: never)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.model.batcher.wait = std::chrono::microseconds(number(option, value, 0L, 1'000'000L));
       }},
      {"--batches", "N,N", "batch sizes to compile beside single rows (2,4,8; 1: none)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         for (std::size_t at = 0; at <= value.size();) {
           const auto comma = std::min(value.find(',', at), value.size());
           line.model.rows.push_back(number<std::size_t>(option, value.substr(at, comma - at), 1, 1024));
           at = comma + 1;
         }
       }},
      text_option("--host", "ADDRESS", "where to listen (127.0.0.1: this machine only)", &ServerOptions::host),
      {"--port", "PORT", "of HTTP (8000; 0: any free one)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.server.port = static_cast<std::uint16_t>(number(option, value, 0, 65535));
       }},
      {"--grpc-port", "PORT", "of gRPC (none; 0: any free one)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.server.grpc_port = number(option, value, 0, 65535);
       }},
      {"--loops", "N", "threads that receive and send (1)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.server.loops = number(option, value, 1U, 64U);
       }},
      {"--spin-us", "US", "that a loop looks for the next request before it sleeps (20)",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.server.spin = std::chrono::microseconds(number(option, value, 0L, 10'000L));
       }},
      size_option("--connections", "open at once (4096)", &ServerOptions::connections, 1'000'000),
      size_option("--header-bytes", "of a request (16384)", &ServerOptions::header_bytes, 1 << 20),
      size_option("--body-bytes", "of a request (4194304)", &ServerOptions::body_bytes, any),
      size_option("--text-bytes", "of a text (262144)", &ServerOptions::text_bytes, any),
      size_option("--rows", "of a request (256)", &ServerOptions::rows, 1 << 20),
      time_option("--idle-ms", "between requests of a connection (60000)", &ServerOptions::idle),
      time_option("--receive-ms", "for a whole request to arrive (10000)", &ServerOptions::receive),
      time_option("--deadline-ms", "for an answer; requests may ask for less (1000)", &ServerOptions::deadline),
      time_option("--drain-ms", "after SIGTERM, for what was accepted (10000)", &ServerOptions::drain),
      {"--token-file", "FILE", "its first line is what clients must send as bearer token",
       [](CommandLine& line, const std::string& option, const std::string& value) {
         line.server.token = first_line(option, value);
       }},
      text_option("--certificate", "PEM", "with --key: TLS", &ServerOptions::certificate),
      text_option("--key", "PEM", "of the certificate", &ServerOptions::key),
      flag("--manage", "clients may load and unload models", &ServerOptions::manage),
      flag("--ui", "an example page at /", &ServerOptions::page),
      text_option("--access-log", "FILE", "JSON lines, one a request; - is standard output",
                  &ServerOptions::access_log),
      {"--json-ready", nullptr, "the line that says ready is JSON",
       [](CommandLine& line, const std::string&, const std::string&) { line.json_ready = true; }},
      {"--help", nullptr, "this text",
       [](CommandLine& line, const std::string&, const std::string&) { line.help = true; }},
  };
  return all;
}

}  // namespace

CommandLine read_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  if (const char* token = std::getenv("ATB_SERVER_TOKEN"); token != nullptr) {
    line.server.token = token;
  }
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!arguments[i].starts_with("--")) {
      add_model(line, arguments[i]);
      continue;
    }
    const auto sign = arguments[i].find('=');
    const std::string name = arguments[i].substr(0, sign);
    const auto& all = options();
    const auto found = std::find_if(all.begin(), all.end(), [&](const Option& option) { return name == option.name; });
    if (found == all.end()) {
      refuse("there is no option " + name);
    }
    std::string value;
    if (found->value != nullptr) {
      if (sign == std::string::npos && i + 1 == arguments.size()) {
        refuse(name + " needs " + found->value);
      }
      value = sign == std::string::npos ? arguments[++i] : arguments[i].substr(sign + 1);
    } else if (sign != std::string::npos) {
      refuse(name + " takes no value");
    }
    found->set(line, name, value);
  }
  if (line.models.empty() && !line.help) {
    refuse("no bundle to serve: give its folder, or --model NAME=FOLDER");
  }
  if (line.server.certificate.empty() != line.server.key.empty()) {
    refuse("--certificate and --key go together");
  }
  return line;
}

std::string help() {
  std::string text =
      "atb-server: answers texts with labels, over HTTP and gRPC.\n\n"
      "  atb-server BUNDLE [options]\n"
      "  atb-server --model reviews=runs/a/bundle --model intents=runs/b/bundle --port 8000 --grpc-port 8001\n\n"
      "  curl -d '{\"inputs\": \"what a film\"}' http://127.0.0.1:8000/predict\n\n";
  for (const Option& option : options()) {
    std::string left =
        std::string("  ") + option.name + (option.value != nullptr ? std::string(" ") + option.value : "");
    left.resize(std::max<std::size_t>(left.size() + 1, 26), ' ');
    ((text += left) += option.help) += '\n';
  }
  text +=
      "\nThe token may also come as ATB_SERVER_TOKEN. SIGTERM and SIGINT drain: what was accepted is answered.\n"
      "Exit codes: 0 drained, 1 the drain ran out of time, 2 usage, 3 a model does not load, 4 cannot listen.\n";
  return text;
}

}  // namespace atb
