#include "atb/server.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <future>
#include <thread>

#include "connection.h"

namespace atb {
namespace {

using boost::asio::ip::tcp;

constexpr auto tick = std::chrono::milliseconds(10);  // of a drain
constexpr auto most_grace = std::chrono::milliseconds(1000);
constexpr auto no_descriptor = std::chrono::milliseconds(100);  // before accepting again

tcp::endpoint resolve(const ServerOptions& options) {
  boost::asio::io_context io;
  error_code ec;
  const auto found = tcp::resolver(io).resolve(options.host, std::to_string(options.port), tcp::resolver::passive, ec);
  if (ec || found.empty()) {
    throw Error(Kind::unavailable, "the host " + options.host + " is none that we can listen on: " + ec.message());
  }
  return found.begin()->endpoint();
}

std::string shown(const tcp::endpoint& endpoint) {
  return endpoint.address().to_string() + ":" + std::to_string(endpoint.port());
}

}  // namespace

struct Server::Impl {
  Impl(Registry& registry, const ServerOptions& the_options);
  ~Impl();

  void accept();
  void accepted(Loop& loop, Socket socket);
  void accept_what_waits();
  void drain();
  [[nodiscard]] Loop& next_loop();

  const ServerOptions options;
  Shared shared;
  std::vector<std::unique_ptr<Loop>> loops;
  tcp::acceptor acceptor;
  boost::asio::steady_timer timer;
  boost::asio::posix::stream_descriptor stop_signal;
  int stop_file;
  std::uint16_t port = 0;  // for any thread: the acceptor is its loop's
  std::size_t turn = 0;
  std::chrono::milliseconds grace{};  // of a drain: so long is listened on, and so long may a connection be idle
  Clock::time_point stopped{}, until{};
  bool in_time = true;
#ifdef ATB_WITH_TLS
  std::optional<boost::asio::ssl::context> tls;
#endif
  std::unique_ptr<Front> front;
};

Server::Impl::Impl(Registry& registry, const ServerOptions& the_options)
    : options(the_options),
      shared(registry, options),
      loops([this] {
        std::vector<std::unique_ptr<Loop>> made;
        for (unsigned i = 0; i < std::max(1U, options.loops); ++i) {
          made.push_back(std::make_unique<Loop>(shared));
        }
        return made;
      }()),
      acceptor(loops.front()->io),
      timer(loops.front()->io),
      stop_signal(loops.front()->io),
      stop_file(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  stop_signal.assign(stop_file);
  if (!options.access_log.empty()) {
    shared.log = std::make_unique<AccessLog>(options.access_log, shared.metrics.lines_dropped);
  }
  if (!options.certificate.empty() || !options.key.empty()) {
#ifdef ATB_WITH_TLS
    namespace ssl = boost::asio::ssl;
    error_code ec;
    tls.emplace(ssl::context::tls_server);
    tls->set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
    if (tls->use_certificate_chain_file(options.certificate, ec) ||
        tls->use_private_key_file(options.key, ssl::context::pem, ec)) {
      throw Error(Kind::invalid, "the PEM files " + options.certificate + " and " + options.key +
                                     " do not open as certificate and key: " + ec.message());
    }
#else
    throw Error(Kind::invalid, "this server was built without TLS: build it where OpenSSL's headers are (libssl-dev)");
#endif
  }
  const tcp::endpoint endpoint = resolve(options);
  error_code ec;
  if (acceptor.open(endpoint.protocol(), ec) || acceptor.set_option(tcp::acceptor::reuse_address(true), ec) ||
      acceptor.bind(endpoint, ec) || acceptor.listen(tcp::acceptor::max_listen_connections, ec) ||
      acceptor.non_blocking(true, ec)) {
    throw Error(Kind::unavailable, "cannot listen on " + shown(endpoint) + ": " + ec.message());
  }
  port = acceptor.local_endpoint().port();
  if (options.grpc_port >= 0) {
#ifdef ATB_WITH_GRPC
    front = open_grpc(registry, options, shared.metrics, shared.stopping);
#else
    throw Error(Kind::invalid, "this server was built without gRPC: build it where libgrpc++-dev is");
#endif
  }
}

Server::Impl::~Impl() {
  front.reset();
  shared.readers.join();
  shared.managers.join();
  for (const auto& loop : loops) {
    loop->close_all();
  }
  while (shared.under_way > 0) {  // of clients who are gone: workers still hold what they are to tell
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Loop& Server::Impl::next_loop() { return *loops[turn++ % loops.size()]; }

void Server::Impl::accept() {
  Loop& loop = next_loop();
  acceptor.async_accept(loop.io, [this, &loop](const error_code& ec, Socket socket) {
    if (!ec) {
      accepted(loop, std::move(socket));  // even where the acceptor was closed meanwhile
    }
    if (ec == boost::asio::error::operation_aborted || !acceptor.is_open()) {
      return;
    }
    if (!ec) {
      return accept();
    }
    timer.expires_after(no_descriptor);  // out of descriptors, mostly
    timer.async_wait([this](const error_code& stopping) {
      if (!stopping && acceptor.is_open()) {
        accept();
      }
    });
  });
}

void Server::Impl::accepted(Loop& loop, Socket socket) {
  Metrics& metrics = shared.metrics;
  error_code ec;
  const tcp::endpoint remote = socket.remote_endpoint(ec);
  if (ec) {
    return;  // gone already
  }
  socket.non_blocking(true, ec);
  socket.set_option(tcp::no_delay(true), ec);
  if (metrics.connections >= static_cast<std::int64_t>(options.connections)) {
    add(metrics.turned_away);
    if (options.certificate.empty()) {
      static constexpr std::string_view text =
          "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      socket.write_some(boost::asio::buffer(text), ec);
      socket.shutdown(Socket::shutdown_send, ec);
    }
    return;
  }
  add(metrics.accepted);
  metrics.connections += 1;
  const auto begin = [this, &loop, name = shown(remote)](Socket&& stream) {
#ifdef ATB_WITH_TLS
    if (tls) {
      using Secure = boost::asio::ssl::stream<Socket>;
      return std::make_shared<Connection<Secure>>(loop, Secure(std::move(stream), *tls), name)->start();
    }
#endif
    std::make_shared<Connection<Socket>>(loop, std::move(stream), name)->start();
  };
  if (&loop == loops.front().get()) {
    return begin(std::move(socket));
  }
  boost::asio::post(loop.io, [begin, stream = std::move(socket)]() mutable { begin(std::move(stream)); });
}

/// What the system accepted for us counts as accepted.
void Server::Impl::accept_what_waits() {
  for (;;) {
    Loop& loop = next_loop();
    error_code ec;
    Socket socket = acceptor.accept(loop.io, ec);
    if (ec) {
      return;
    }
    accepted(loop, std::move(socket));
  }
}

/// Again each tick, until nothing is connected or the time is up.
void Server::Impl::drain() {
  const auto now = Clock::now();
  const bool all_gone = shared.metrics.connections == 0;
  if (acceptor.is_open() && (all_gone || now >= stopped + grace)) {
    acceptor.cancel();
    accept_what_waits();
    acceptor.close();
  } else if (!acceptor.is_open() && (all_gone || now >= until)) {
    in_time = all_gone;
    for (const auto& loop : loops) {
      boost::asio::post(loop->io, [&loop = *loop] {
        loop.close_all();
        loop.finish();
      });
    }
    return;
  }
  if (!acceptor.is_open()) {
    for (const auto& loop : loops) {
      boost::asio::post(loop->io, [&loop = *loop, age = grace] { loop.close_idle(age); });
    }
  }
  timer.expires_after(tick);
  timer.async_wait([this](const error_code&) { drain(); });
}

Server::Server(Registry& registry, const ServerOptions& options) : impl_(std::make_unique<Impl>(registry, options)) {}
Server::~Server() = default;

std::uint16_t Server::port() const noexcept { return impl_->port; }

std::uint16_t Server::grpc_port() const noexcept { return impl_->front ? impl_->front->port() : std::uint16_t{0}; }

bool Server::run() {
  Impl& impl = *impl_;
  std::future<bool> front_drained;
  impl.stop_signal.async_wait(boost::asio::posix::descriptor_base::wait_read, [&](const error_code&) {
    // Clients see that we are not ready, and that each answer is a connection's last, before connections are refused.
    impl.shared.stopping = true;
    impl.stopped = Clock::now();
    impl.until = impl.stopped + impl.options.drain;
    impl.grace = std::min(most_grace, impl.options.drain / 4);
    if (impl.front) {
      front_drained = std::async(std::launch::async, [&impl] { return impl.front->drain(impl.until); });
    }
    impl.timer.cancel();
    impl.drain();
  });
  impl.accept();
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < impl.loops.size(); ++i) {
    threads.emplace_back([&loop = *impl.loops[i]] { loop.run(); });
  }
  impl.loops.front()->run();
  threads.clear();
  const bool front_in_time = !front_drained.valid() || front_drained.get();
  const bool models_in_time = impl.shared.registry.drain(impl.until);
  impl.shared.log.reset();
  return impl.in_time && front_in_time && models_in_time;
}

void Server::stop() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(impl_->stop_file, &one, sizeof(one));
}

}  // namespace atb
