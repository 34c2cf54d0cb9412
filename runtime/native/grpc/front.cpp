#include "server/front.h"

#include <grpc/support/log.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "service.h"

namespace atb {
namespace {

constexpr std::size_t most_bytes = std::size_t{256} << 20U;  // of all messages that are being received or answered
constexpr int streams_of_a_connection = 256;
constexpr int ping_after_ms = 20'000, ping_answer_ms = 10'000;  // a peer that is half open is gone after both
constexpr int connection_age_ms = 30 * 60'000;                  // then asked to connect anew, which clients do unseen

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw Error(Kind::invalid, "the PEM file " + path + " cannot be read");
  }
  return text.str();
}

std::shared_ptr<grpc::ServerCredentials> credentials(const ServerOptions& options) {
  if (options.certificate.empty()) {
    return grpc::InsecureServerCredentials();
  }
  grpc::SslServerCredentialsOptions tls(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  tls.pem_key_cert_pairs.push_back({contents(options.key), contents(options.certificate)});
  return grpc::SslServerCredentials(tls);
}

std::string address(const ServerOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos && options.host.front() != '[';
  return (v6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.grpc_port);
}

int clamped(std::size_t value) { return static_cast<int>(std::min<std::size_t>(value, 1U << 30U)); }
int clamped(std::chrono::milliseconds value) {
  return static_cast<int>(std::min<std::int64_t>(value.count(), 1 << 30));
}

void set_limits(grpc::ServerBuilder& builder, const ServerOptions& options) {
  builder.SetMaxReceiveMessageSize(clamped(options.body_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, clamped(options.header_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, streams_of_a_connection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, clamped(options.receive));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, clamped(options.idle));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, connection_age_ms);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, clamped(options.receive + options.deadline));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, ping_after_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ping_answer_ms);
  builder.SetResourceQuota(grpc::ResourceQuota("requests").Resize(std::max(most_bytes, 16 * options.body_bytes)));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // or a second server on this port would start, silently
  // A few kilobytes of zeros, compressed, are gigabytes: what is counted against the limit is what arrives.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
}

/// The library writes a line for every handshake that fails: whoever may connect could fill the log.
void be_quiet() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) {
    gpr_set_log_function([](gpr_log_func_args*) {});
  }
}

class GrpcFront final : public Front {
 public:
  GrpcFront(Registry& registry, const ServerOptions& options, Metrics& metrics, const std::atomic<bool>& stopping)
      : shared_(registry, options, metrics, stopping), service_(shared_) {
    be_quiet();
    grpc::ServerBuilder builder;
    int port = 0;
    set_limits(builder, options);
    builder.AddListeningPort(address(options), credentials(options), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (!server_ || port == 0) {
      throw Error(Kind::unavailable, "gRPC cannot listen on " + address(options) +
                                         ": the port is taken, or the host is not of this machine" +
                                         (options.certificate.empty() ? "" : ", or the PEM files hold no key pair"));
    }
    port_ = static_cast<std::uint16_t>(port);
  }

  ~GrpcFront() override { server_->Shutdown(std::chrono::system_clock::now()); }

  [[nodiscard]] std::uint16_t port() const noexcept override { return port_; }

  bool drain(Clock::time_point until) override {
    // gRPC turns calls away as soon as it begins to end, those on their way here too. So it begins when whoever watches
    // our readiness has had the time to look.
    if (shared_.asked) {
      std::this_thread::sleep_for(std::min<Clock::duration>((until - Clock::now()) / 4, std::chrono::seconds(1)));
    }
    const auto left = std::max(until - Clock::now(), Clock::duration::zero());
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
    return Clock::now() < until;
  }

 private:
  rpc::Shared shared_;
  rpc::OipService service_;  // after whom its calls have ended
  std::unique_ptr<grpc::Server> server_;
  std::uint16_t port_ = 0;
};

}  // namespace

std::unique_ptr<Front> open_grpc(Registry& registry, const ServerOptions& options, Metrics& metrics,
                                 const std::atomic<bool>& stopping) {
  return std::make_unique<GrpcFront>(registry, options, metrics, stopping);
}

}  // namespace atb
