#include "metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "front.h"
#include "json_writer.h"

namespace atb {
namespace {

// Microseconds. Tokenising takes about one of them, an engine tens, a request from fifty on.
constexpr std::array<double, 15> short_times{1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 5e4, 2e5};
constexpr std::array<double, 17> times{50,  100, 150, 200, 300, 500, 750,   1e3, 1.5e3,
                                       2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2.5e5, 1e6};
constexpr std::array<double, 9> batches{1, 2, 4, 8, 16, 32, 64, 128, 256};
static_assert(short_times.size() < Histogram::most && times.size() < Histogram::most);

constexpr double microsecond = 1e-6;

double in_us(std::chrono::nanoseconds time) { return static_cast<double>(time.count()) / 1e3; }
std::uint64_t in_ns(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(std::max<long>(0, time.count()));
}

/// A family of series: its two comment lines.
void family(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  ((((((out += "# HELP ") += name) += ' ') += help) += "\n# TYPE ") += name) += ' ';
  (out += type) += '\n';
}

template <class Number>
void series(std::string& out, std::string_view name, std::string_view labels, Number value) {
  out += name;
  if (!labels.empty()) {
    ((out += '{') += labels) += '}';
  }
  out += ' ';
  write_number(out, value);
  out += '\n';
}

std::string label(std::string_view name, std::string_view value) {
  std::string text(name);
  write_string(text += '=', value);  // the escapes of JSON are those of a label, but for control characters
  return text;
}

std::uint64_t read(const Counter& counter) { return counter.load(std::memory_order_relaxed); }

void write_process(std::string& out) {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  family(out, "process_cpu_seconds_total", "counter", "Processor time of user and system.");
  series(out, "process_cpu_seconds_total", "", seconds(use.ru_utime) + seconds(use.ru_stime));
  std::uint64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  family(out, "process_resident_memory_bytes", "gauge", "Memory of the process that is in RAM.");
  series(out, "process_resident_memory_bytes", "", resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
}

}  // namespace

void Histogram::observe(double value, std::uint64_t times_seen) noexcept {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  add(counts_[static_cast<std::size_t>(bucket)], times_seen);
  add(sum_, static_cast<std::uint64_t>(std::max(0.0, value) * 1e3) * times_seen);
}

void Histogram::write(std::string& out, const std::string& name, const std::string& labels, double scale) const {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i <= bounds_.size(); ++i) {
    total += read(counts_[i]);
    std::string bound = i < bounds_.size() ? "" : "+Inf";
    if (i < bounds_.size()) {
      write_number(bound, static_cast<float>(bounds_[i] * scale));  // 1e-04, not 9.999999999999999e-05
    }
    series(out, name + "_bucket", labels + ",le=\"" + bound + '"', total);
  }
  series(out, name + "_sum", labels, static_cast<double>(read(sum_)) * 1e-3 * scale);
  series(out, name + "_count", labels, total);
}

ModelMetrics::ModelMetrics()
    : request(times), tokenise(short_times), queue(short_times), engine(short_times), batch(batches) {}

void ModelMetrics::answered(const Timing& timing, std::size_t count, std::size_t batch_rows) noexcept {
  request.observe(in_us(timing.total));
  tokenise.observe(in_us(timing.tokenise));
  queue.observe(in_us(timing.queue));
  engine.observe(in_us(timing.engine));
  batch.observe(static_cast<double>(batch_rows));
  add(outcomes[kinds]);
  add(rows, count);
  add(nanoseconds[0], in_ns(timing.tokenise));
  add(nanoseconds[1], in_ns(timing.queue));
  add(nanoseconds[2], in_ns(timing.engine));
  add(nanoseconds[3], in_ns(timing.total));
  using std::chrono::system_clock;
  last_ms.store(std::chrono::duration_cast<std::chrono::milliseconds>(system_clock::now().time_since_epoch()).count(),
                std::memory_order_relaxed);
}

void ModelMetrics::refused(Kind why, std::chrono::nanoseconds total) noexcept {
  add(outcomes[static_cast<std::size_t>(why)]);
  add(failed_nanoseconds, in_ns(total));
}

ModelMetrics& Metrics::of(const std::string& model) {
  const std::lock_guard lock(mutex_);
  auto& slot = models_[model];
  if (!slot) {
    slot = std::make_unique<ModelMetrics>();
  }
  return *slot;
}

void Metrics::responded(unsigned http_status) noexcept {
  if (http_status < responses_.size()) {
    add(responses_[http_status]);
  }
}

std::string Metrics::text(const Registry& registry) const {
  std::string out;
  out.reserve(16 * 1024);
  family(out, "atb_info", "gauge", "The server's version.");
  series(out, "atb_info", label("version", version), 1);

  const auto entries = registry.entries();
  family(out, "atb_models_ready", "gauge", "Versions of models that answer.");
  series(out, "atb_models_ready", "",
         std::count_if(entries.begin(), entries.end(), [](const auto& e) { return e.model != nullptr; }));
  family(out, "atb_queue_rows", "gauge", "Rows that wait for a worker.");
  for (const auto& entry : entries) {
    if (entry.model) {
      series(out, "atb_queue_rows", label("model", entry.name) + "," + label("version", entry.version),
             entry.model->batcher().counts().waiting);
    }
  }

  const std::lock_guard lock(mutex_);
  const auto each = [&](auto write) {
    for (const auto& [name, model] : models_) {
      write(label("model", name), *model);
    }
  };
  family(out, "atb_requests_total", "counter", "Requests to a model, by what became of them.");
  each([&](const std::string& model, const ModelMetrics& m) {
    series(out, "atb_requests_total", model + ",outcome=\"answered\"", read(m.outcomes[kinds]));
    for (std::size_t i = 0; i < kinds; ++i) {
      if (const auto count = read(m.outcomes[i]); count > 0) {
        series(out, "atb_requests_total", model + "," + label("outcome", status_of(static_cast<Kind>(i)).name), count);
      }
    }
  });
  family(out, "atb_refused_total", "counter", "Requests that reached no model, by reason.");
  for (std::size_t i = 0; i < kinds; ++i) {
    series(out, "atb_refused_total", label("reason", status_of(static_cast<Kind>(i)).name), read(unnamed_[i]));
  }
  family(out, "atb_rows_total", "counter", "Rows that were answered.");
  each([&](const std::string& model, const ModelMetrics& m) { series(out, "atb_rows_total", model, read(m.rows)); });

  const auto histograms = [&](const char* name, const char* help, const Histogram ModelMetrics::*member, double scale) {
    family(out, name, "histogram", help);
    each([&](const std::string& model, const ModelMetrics& m) { (m.*member).write(out, name, model, scale); });
  };
  histograms("atb_request_seconds", "From a whole request to its answer.", &ModelMetrics::request, microsecond);
  histograms("atb_tokenise_seconds", "Of it, reading and tokenising.", &ModelMetrics::tokenise, microsecond);
  histograms("atb_queue_seconds", "Of it, waiting for a worker.", &ModelMetrics::queue, microsecond);
  histograms("atb_engine_seconds", "Of it, computing.", &ModelMetrics::engine, microsecond);
  histograms("atb_batch_rows", "Rows of the engine that answered a request.", &ModelMetrics::batch, 1);

  family(out, "atb_http_responses_total", "counter", "Responses, by status.");
  for (std::size_t i = 0; i < responses_.size(); ++i) {
    if (const auto count = read(responses_[i]); count > 0) {
      series(out, "atb_http_responses_total", label("code", std::to_string(i)), count);
    }
  }
  family(out, "atb_connections", "gauge", "Open connections.");
  series(out, "atb_connections", "", connections.load(std::memory_order_relaxed));
  family(out, "atb_connections_accepted_total", "counter", "Connections that were accepted.");
  series(out, "atb_connections_accepted_total", "", read(accepted));
  family(out, "atb_connections_turned_away_total", "counter", "Connections over the limit.");
  series(out, "atb_connections_turned_away_total", "", read(turned_away));
  family(out, "atb_log_lines_dropped_total", "counter", "Lines of the access log that its file was too slow for.");
  series(out, "atb_log_lines_dropped_total", "", read(lines_dropped));
  write_process(out);
  return out;
}

}  // namespace atb
