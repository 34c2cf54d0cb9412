#include "load/generator.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "load/reply.h"

namespace atb::load {
namespace {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC, as the timer's
using Ns = std::int64_t;

constexpr Ns kNever = std::numeric_limits<Ns>::max();
constexpr Ns kScan = 10'000'000;   // how often waiting requests are looked through
constexpr Ns kRetry = 20'000'000;  // before a refused connection is tried again
constexpr std::uint32_t kTimer = ~std::uint32_t{0};

Ns now_ns() { return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count(); }

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { close(); }
  void close() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

struct Connection {
  enum class State { down, connecting, idle, busy };
  Descriptor socket;
  State state = State::down;
  Ns since = 0;     // of the request's sending, of the attempt to connect, or of the failure
  Ns intended = 0;  // of the request
  std::string_view unsent;
  Reply reply;
};

std::runtime_error failure(const std::string& what) { return std::runtime_error(what + ": " + std::strerror(errno)); }

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& x) {
    return static_cast<double>(x.tv_sec) + 1e-6 * static_cast<double>(x.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

class Generator {
 public:
  Generator(const Requests& requests, const Plan& plan)
      : requests_(requests),
        plan_(plan),
        open_(plan.rate_per_s > 0),
        connections_(plan.connections),
        random_(plan.seed) {
    resolve();
    epoll_ = Descriptor(epoll_create1(EPOLL_CLOEXEC));
    timer_ = Descriptor(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (epoll_.get() < 0 || timer_.get() < 0) throw failure("epoll or timerfd");
    watch(timer_.get(), kTimer, EPOLLIN);
  }

  Tally run() {
    connect_all();
    begin_ = now_ns() + plan_.warm_up.count();
    end_ = begin_ + plan_.duration.count();
    next_ = open_ ? now_ns() + gap() : kNever;
    double cpu = cpu_seconds();
    bool begun = false;
    Ns scan = 0;
    for (Ns now = now_ns(); now < end_; now = now_ns()) {
      if (!begun && now >= begin_) {
        begun = true;
        cpu = cpu_seconds();
      }
      if (now >= scan) {
        look_through(now);
        scan = now + kScan;
      }
      send_what_is_due(now);
      wait(std::min({next_, scan, end_, begun ? kNever : begin_}));
    }
    tally_.busy = (cpu_seconds() - cpu) / (static_cast<double>(plan_.duration.count()) * 1e-9);
    finish();
    return std::move(tally_);
  }

 private:
  void resolve() {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int code = getaddrinfo(plan_.host.c_str(), plan_.port.c_str(), &hints, &found); code != 0) {
      throw std::runtime_error(plan_.host + ":" + plan_.port + ": " + gai_strerror(code));
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, &freeaddrinfo);
    family_ = found->ai_family;
    address_size_ = found->ai_addrlen;
    std::memcpy(&address_, found->ai_addr, found->ai_addrlen);
  }

  void watch(int fd, std::uint32_t id, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u32 = id;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw failure("epoll_ctl");
  }

  // --- connections --------------------------------------------------------------------------------------------------

  void connect(std::uint32_t id, Ns now) {
    Connection& c = connections_[id];
    c.socket = Descriptor(socket(family_, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (c.socket.get() < 0) throw failure("socket (raise the limit of open files: ulimit -n)");
    const int one = 1;
    setsockopt(c.socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c.since = now;
    c.reply.reset();
    // Edge-triggered and for both directions: registered once, never touched again.
    if (::connect(c.socket.get(), reinterpret_cast<const sockaddr*>(&address_), address_size_) == 0 ||
        errno == EINPROGRESS) {
      c.state = Connection::State::connecting;
      watch(c.socket.get(), id, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    } else {
      c.state = Connection::State::down;
      c.socket.close();
    }
  }

  void connect_all() {
    const Ns start = now_ns();
    for (std::uint32_t id = 0; id < connections_.size(); ++id) connect(id, start);
    while (idle_.size() < connections_.size()) {
      const Ns now = now_ns();
      if (now - start > plan_.timeout.count()) {
        throw std::runtime_error("only " + std::to_string(idle_.size()) + " of " + std::to_string(connections_.size()) +
                                 " connections to " + plan_.host + ":" + plan_.port + " were accepted: is it running?");
      }
      for (std::uint32_t id = 0; id < connections_.size(); ++id) {
        Connection& c = connections_[id];
        if (c.state == Connection::State::down && now - c.since > kRetry) connect(id, now);
      }
      wait(now + kScan);
    }
    tally_ = {};
  }

  void down(std::uint32_t id, std::uint64_t& error) {
    Connection& c = connections_[id];
    if (c.state == Connection::State::busy) {
      if (counted(c.intended)) ++error;
      --in_flight_;
    }
    if (c.state == Connection::State::idle) idle_.erase(std::find(idle_.begin(), idle_.end(), id));
    c.state = Connection::State::down;
    c.socket.close();
    c.since = now_ns();
  }

  /// The server has closed, as it may, a connection that owes nothing.
  void reconnect(std::uint32_t id) {
    ++tally_.reconnects;
    std::uint64_t none = 0;
    down(id, none);
    if (now_ns() < end_ || open_) connect(id, now_ns());
  }

  void look_through(Ns now) {
    for (std::uint32_t id = 0; id < connections_.size(); ++id) {
      Connection& c = connections_[id];
      const Ns waited = now - c.since;
      if (c.state == Connection::State::down && waited > kRetry) {
        connect(id, now);
      } else if (c.state == Connection::State::connecting && waited > plan_.timeout.count()) {
        refused(id);
      } else if (c.state == Connection::State::busy && waited > plan_.timeout.count()) {
        down(id, tally_.errors.timeout);
      }
    }
  }

  void refused(std::uint32_t id) {
    if (now_ns() >= begin_) ++tally_.errors.connect;
    std::uint64_t none = 0;
    down(id, none);
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  [[nodiscard]] bool counted(Ns intended) const noexcept { return intended >= begin_ && intended < end_; }

  Ns gap() { return static_cast<Ns>(std::exponential_distribution<double>(plan_.rate_per_s)(random_) * 1e9); }

  void send_what_is_due(Ns now) {
    if (!open_) {
      while (!idle_.empty()) send(now);
      return;
    }
    for (; next_ <= now && next_ < end_; next_ += gap()) {
      // Nobody waits and a connection is free: what passes from here to the sending is this generator's fault.
      if (waiting_.size() < idle_.size() && counted(next_)) tally_.late.add(now - next_);
      waiting_.push_back(next_);
    }
    for (; !waiting_.empty() && !idle_.empty(); waiting_.pop_front()) send(waiting_.front());
  }

  void send(Ns intended) {
    const std::uint32_t id = idle_.front();  // the one that has rested longest: all are in use
    idle_.pop_front();
    Connection& c = connections_[id];
    c.state = Connection::State::busy;
    ++in_flight_;
    c.since = now_ns();
    c.intended = open_ ? intended : c.since;
    c.unsent = requests_[turn_++ % requests_.size()];
    c.reply.reset();
    if (counted(c.intended)) ++tally_.meant;
    push(id);
  }

  void push(std::uint32_t id) {
    Connection& c = connections_[id];
    while (!c.unsent.empty()) {
      const ssize_t sent = ::send(c.socket.get(), c.unsent.data(), c.unsent.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        c.unsent.remove_prefix(static_cast<std::size_t>(sent));
      } else if (errno == EAGAIN) {
        return;
      } else {
        down(id, tally_.errors.reset);
        return;
      }
    }
  }

  /// `closing`: the peer has closed its side, perhaps right behind the answer.
  void receive(std::uint32_t id, bool closing) {
    Connection& c = connections_[id];
    while (c.state == Connection::State::busy || c.state == Connection::State::idle) {
      const ssize_t got = recv(c.socket.get(), buffer_.data(), buffer_.size(), 0);
      if (got < 0) {
        if (errno != EAGAIN) down(id, tally_.errors.reset);
        return;
      }
      tally_.bytes += static_cast<std::uint64_t>(got);
      if (c.state == Connection::State::idle) {  // closed, or speaks unasked
        reconnect(id);
        return;
      }
      const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
      if (got == 0) c.reply.closed();
      const std::size_t taken = c.reply.feed(bytes);
      if (c.reply.done()) {
        answered(id, taken == bytes.size() && !closing);
        return;
      }
      if (c.reply.broken()) {
        down(id, got == 0 ? tally_.errors.reset : tally_.errors.protocol);
        return;
      }
      if (!closing && bytes.size() < buffer_.size()) return;  // drained: more comes with another event
    }
  }

  void answered(std::uint32_t id, bool clean) {
    Connection& c = connections_[id];
    const Ns now = now_ns();
    const int status = c.reply.status();
    if (counted(c.intended)) tally_.answers[status].add(now - c.intended);
    if (now >= begin_ && now < end_ && status >= 200 && status < 300) ++tally_.ended;
    --in_flight_;
    c.state = Connection::State::idle;
    idle_.push_back(id);
    if (!c.reply.keep() || !clean) reconnect(id);
  }

  // --- the loop -----------------------------------------------------------------------------------------------------

  void wait(Ns until) {
    const Ns now = now_ns();
    // Of a closed loop nothing is due within a millisecond; of an open one the timer says when.
    int timeout_ms = 0;
    if (!plan_.spin && until > now) {
      timeout_ms = static_cast<int>(std::min<Ns>((until - now) / 1'000'000 + 1, 1000));
      if (open_ && until != armed_) {
        itimerspec at{};
        at.it_value.tv_sec = until / 1'000'000'000;
        at.it_value.tv_nsec = until % 1'000'000'000;
        timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &at, nullptr);
        armed_ = until;
      }
    }
    const int count = epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), timeout_ms);
    if (count < 0 && errno != EINTR) throw failure("epoll_wait");
    for (int i = 0; i < count; ++i) handle(events_[static_cast<std::size_t>(i)]);
  }

  void handle(const epoll_event& event) {
    const std::uint32_t id = event.data.u32;
    if (id == kTimer) {
      std::uint64_t times = 0;
      if (read(timer_.get(), &times, sizeof times) < 0) return;
      return;
    }
    Connection& c = connections_[id];
    if (c.state == Connection::State::connecting) {
      if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) {
        refused(id);
        return;
      }
      c.state = Connection::State::idle;
      idle_.push_back(id);
      return;
    }
    if (c.state == Connection::State::down) return;
    if (c.state == Connection::State::busy && !c.unsent.empty()) push(id);
    const bool closing = (event.events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0;
    if (closing || (event.events & EPOLLIN) != 0) receive(id, closing);
  }

  /// Nothing new; what is on its way may still arrive.
  void finish() {
    // Arrivals between the last look and the end are due as well.
    for (; next_ < end_; next_ += gap()) waiting_.push_back(next_);
    const Ns last = now_ns() + plan_.patience.count();
    for (Ns now = now_ns(); now < last && (in_flight_ > 0 || !waiting_.empty()); now = now_ns()) {
      look_through(now);
      for (; !waiting_.empty() && !idle_.empty(); waiting_.pop_front()) send(waiting_.front());
      wait(std::min(now + kScan, last));
    }
    for (const Connection& c : connections_) {
      if (c.state == Connection::State::busy && counted(c.intended)) ++tally_.unanswered;
    }
    for (const Ns intended : waiting_) {
      if (counted(intended)) {
        ++tally_.meant;
        ++tally_.unanswered;
      }
    }
  }

  const Requests& requests_;
  const Plan plan_;
  const bool open_;
  sockaddr_storage address_{};
  socklen_t address_size_ = 0;
  int family_ = AF_INET;
  Descriptor epoll_, timer_;
  std::vector<Connection> connections_;
  std::deque<std::uint32_t> idle_;
  std::deque<Ns> waiting_;  // arrivals that found no free connection, by their intended time
  std::size_t in_flight_ = 0;
  std::size_t turn_ = 0;
  Ns begin_ = kNever, end_ = kNever, next_ = kNever, armed_ = 0;
  std::mt19937_64 random_;
  std::array<epoll_event, 512> events_{};
  std::array<char, 64 * 1024> buffer_{};
  Tally tally_;
};

}  // namespace

Tally generate(const Requests& requests, const Plan& plan) { return Generator(requests, plan).run(); }

}  // namespace atb::load
