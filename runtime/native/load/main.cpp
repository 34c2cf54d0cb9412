// atb-load: requests from a file to a server, and one line of JSON about what came back.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "load/generator.h"

namespace {

using atb::load::Histogram;
using atb::load::Plan;
using atb::load::Requests;
using atb::load::Tally;

constexpr const char* kHelp =
    R"(usage: atb-load --requests FILE [options]

Sends the requests of FILE, over and over, to an HTTP server and prints one line of JSON. FILE holds for each request
its size as a little-endian 32-bit number and then its bytes, head and body: `atb bench --server` writes it.

  --host HOST          of the server (127.0.0.1)
  --port PORT          of the server (8000)
  --connections N      kept alive (1)
  --rate PER_S         open loop: arrivals by a Poisson process, latency from the intended sending (closed loop)
  --seconds S          that are counted (3)
  --warm-up S          before them (0.5)
  --timeout S          of a request (10)
  --patience S         after the end, for answers still on their way (1)
  --seed N             of the arrivals (0)
  --spin               never sleep: keeps a core busy, and waking up out of the latencies

Exit codes: 0 measured, 1 not, 2 wrong usage.
)";

class Usage : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

double number(std::string_view name, std::string_view text, double least) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) || value < least ||
      value > 1e9) {
    throw Usage(std::string(name) + " takes a number of at least " + std::to_string(least) + ", got '" +
                std::string(text) + "'");
  }
  return value;
}

std::chrono::nanoseconds seconds(std::string_view name, std::string_view text) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(number(name, text, 0) * 1e9));
}

struct Options {
  std::string requests;
  Plan plan;
};

Options parse(const std::vector<std::string_view>& words) {
  Options out;
  out.plan.duration = std::chrono::seconds(3);
  out.plan.warm_up = std::chrono::milliseconds(500);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view name = words[i];
    if (name == "--spin") {
      out.plan.spin = true;
      continue;
    }
    if (i + 1 == words.size()) throw Usage("unknown option, or one without its value: " + std::string(name));
    const std::string_view value = words[++i];
    if (name == "--requests")
      out.requests = value;
    else if (name == "--host")
      out.plan.host = value;
    else if (name == "--port")
      out.plan.port = value;
    else if (name == "--connections")
      out.plan.connections = static_cast<unsigned>(number(name, value, 1));
    else if (name == "--rate")
      out.plan.rate_per_s = number(name, value, 1e-3);
    else if (name == "--seconds")
      out.plan.duration = seconds(name, value);
    else if (name == "--warm-up")
      out.plan.warm_up = seconds(name, value);
    else if (name == "--timeout")
      out.plan.timeout = seconds(name, value);
    else if (name == "--patience")
      out.plan.patience = seconds(name, value);
    else if (name == "--seed")
      out.plan.seed = static_cast<std::uint64_t>(number(name, value, 0));
    else
      throw Usage("unknown option " + std::string(name));
  }
  if (out.requests.empty()) throw Usage("--requests FILE is needed");
  if (out.plan.duration.count() <= 0) throw Usage("--seconds must be more than 0");
  return out;
}

std::string json_of(const Histogram& histogram) {
  std::string out = "[";
  histogram.each([&](std::uint64_t ns, std::uint64_t count) {
    if (out.size() > 1) out += ',';
    out += '[' + std::to_string(ns) + ',' + std::to_string(count) + ']';
  });
  return out + ']';
}

void print(const Plan& plan, const Tally& tally) {
  std::string answers;
  for (const auto& [status, histogram] : tally.answers) {
    if (!answers.empty()) answers += ',';
    answers += '"' + std::to_string(status) + "\":{\"count\":" + std::to_string(histogram.total()) +
               ",\"latency_ns\":" + json_of(histogram) + '}';
  }
  const double duration_s = static_cast<double>(plan.duration.count()) * 1e-9;
  std::printf("{\"connections\":%u,\"rate_per_s\":", plan.connections);
  if (plan.rate_per_s > 0)
    std::printf("%.9g", plan.rate_per_s);
  else
    std::printf("null");
  std::printf(",\"seconds\":%.9g,\"meant\":%llu,\"ended\":%llu,\"answers\":{%s}", duration_s,
              static_cast<unsigned long long>(tally.meant), static_cast<unsigned long long>(tally.ended),
              answers.c_str());
  std::printf(
      ",\"errors\":{\"connect\":%llu,\"reset\":%llu,\"timeout\":%llu,\"protocol\":%llu},\"unanswered\":%llu",
      static_cast<unsigned long long>(tally.errors.connect), static_cast<unsigned long long>(tally.errors.reset),
      static_cast<unsigned long long>(tally.errors.timeout), static_cast<unsigned long long>(tally.errors.protocol),
      static_cast<unsigned long long>(tally.unanswered));
  std::printf(",\"late_ns\":%s,\"reconnects\":%llu,\"bytes\":%llu,\"busy\":%.4f}\n", json_of(tally.late).c_str(),
              static_cast<unsigned long long>(tally.reconnects), static_cast<unsigned long long>(tally.bytes),
              tally.busy);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  for (const std::string_view word : words) {
    if (word == "--help" || word == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
  }
  try {
    const Options options = parse(words);
    const Requests requests = Requests::read(options.requests);
    print(options.plan, atb::load::generate(requests, options.plan));
    return 0;
  } catch (const Usage& error) {
    std::fprintf(stderr, "atb-load: %s; --help tells the options\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "atb-load: %s\n", error.what());
    return 1;
  }
}
