// The load generator: what it counts, and from when.
#define BOOST_TEST_MODULE load
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/included/unit_test.hpp>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "load/generator.h"
#include "load/histogram.h"
#include "load/reply.h"
#include "load/requests.h"

using namespace std::chrono_literals;
using atb::load::Histogram;
using atb::load::Plan;
using atb::load::Reply;
using atb::load::Requests;
using atb::load::Tally;

BOOST_AUTO_TEST_CASE(buckets_are_narrow_and_hold_their_middle) {
  std::size_t last = 0;
  for (std::uint64_t value = 0; value < (std::uint64_t{1} << 50); value += 1 + value / 37) {
    const std::size_t at = Histogram::bucket(value);
    BOOST_TEST_REQUIRE(at >= last);
    last = at;
    const std::uint64_t middle = Histogram::middle(at);
    BOOST_TEST_REQUIRE(Histogram::bucket(middle) == at);
    const double away = middle > value ? static_cast<double>(middle - value) : static_cast<double>(value - middle);
    BOOST_TEST_REQUIRE(away <= static_cast<double>(value) / 512);
  }
}

namespace {

struct Read {
  int status;
  bool done, broken, keep;
  std::size_t taken;
};

/// The reply in parts of `step` bytes.
Read read(std::string_view bytes, std::size_t step, bool closed = false) {
  Reply reply;
  reply.reset();
  std::size_t taken = 0;
  while (taken < bytes.size() && !reply.done() && !reply.broken()) taken += reply.feed(bytes.substr(taken, step));
  if (closed && !reply.done()) reply.closed();
  return {reply.status(), reply.done(), reply.broken(), reply.keep(), taken};
}

const std::string kSized = "HTTP/1.1 200 OK\r\nContent-Type: a\r\ncontent-length:  5 \r\n\r\nhello";
const std::string kChunked =
    "HTTP/1.1 503 No\r\nTransfer-Encoding: "
    "Chunked\r\n\r\n5;x=1\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: u\r\n\r\n";

}  // namespace

BOOST_AUTO_TEST_CASE(replies_read_the_same_in_any_parts) {
  for (const std::string& whole : {kSized, kChunked, "HTTP/1.1 100 Continue\r\n\r\n" + kSized}) {
    for (std::size_t step = 1; step <= whole.size() + 7; ++step) {
      const Read got = read(whole + "HTTP/1", step);
      BOOST_TEST_REQUIRE((got.done && got.keep && !got.broken));
      BOOST_TEST_REQUIRE(got.taken == whole.size());
      BOOST_TEST_REQUIRE(got.status == (whole == kChunked ? 503 : 200));
    }
  }
}

BOOST_AUTO_TEST_CASE(replies_that_end_a_connection) {
  BOOST_TEST(!read("HTTP/1.1 429 Slow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 9).keep);
  BOOST_TEST(!read("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 9).keep);
  BOOST_TEST(read("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", 9).keep);
  const std::string endless = "HTTP/1.1 200 OK\r\n\r\nsome";
  BOOST_TEST(!read(endless, 4).done);
  BOOST_TEST(read(endless, 4, true).done);
  BOOST_TEST(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", 4, true).broken);
  BOOST_TEST(read("HTTP/1.1 204 None\r\n\r\n", 4).done);
}

BOOST_AUTO_TEST_CASE(what_is_no_reply_is_broken) {
  for (const char* bytes :
       {"SSH-2.0 hello there\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    BOOST_TEST(read(bytes, 3).broken, bytes);
  }
  BOOST_TEST(read("HTTP/1.1 200 OK\r\nX: " + std::string(80'000, 'x'), 4096).broken);
}

BOOST_AUTO_TEST_CASE(a_file_of_requests_is_whole_or_refused) {
  const std::string good{"\x03\0\0\0abc\x01\0\0\0d", 12};
  const Requests two = Requests::parse(good);
  BOOST_TEST(two.size() == 2U);
  BOOST_TEST((two[0] == "abc" && two[1] == "d"));
  for (std::size_t size = 0; size < good.size(); ++size) {
    if (size != 7) BOOST_CHECK_THROW(Requests::parse(good.substr(0, size)), std::runtime_error);
  }
  BOOST_CHECK_THROW(Requests::parse(std::string(4, '\0')), std::runtime_error);
  BOOST_CHECK_THROW(Requests::read("/nowhere/at/all"), std::runtime_error);
}

namespace {

/// Answers requests that end in a blank line; what is said is up to the test. One thread a connection.
class Server {
 public:
  /// Returns what to send to the number of a request; empty: close without an answer.
  using Say = std::function<std::string(int)>;

  explicit Server(Say say) : say_(std::move(say)), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    BOOST_REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    BOOST_REQUIRE(listen(listener_, 64) == 0);
    socklen_t size = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = std::to_string(ntohs(address.sin_port));
    acceptor_ = std::thread([this] { accept_all(); });
  }

  ~Server() {
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : clients_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& x : threads_) x.join();
    for (const int fd : clients_) close(fd);
    close(listener_);
  }

  [[nodiscard]] Plan plan() const {
    Plan found;
    found.port = port_;
    found.warm_up = 0s;
    found.duration = 300ms;
    return found;
  }
  [[nodiscard]] int seen() const { return seen_; }

 private:
  void accept_all() {
    for (int fd = accept(listener_, nullptr, nullptr); fd >= 0; fd = accept(listener_, nullptr, nullptr)) {
      const std::lock_guard lock(mutex_);
      clients_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string waiting;
    char bytes[4096];
    for (ssize_t got = recv(fd, bytes, sizeof bytes, 0); got > 0 && !stopping_;
         got = recv(fd, bytes, sizeof bytes, 0)) {
      waiting.append(bytes, static_cast<std::size_t>(got));
      for (std::size_t end; (end = waiting.find("\r\n\r\n")) != std::string::npos; waiting.erase(0, end + 4)) {
        const std::string said = say_(seen_++);
        if (said.empty() || send(fd, said.data(), said.size(), MSG_NOSIGNAL) < 0 ||
            said.find("close\r\n") != std::string::npos) {
          shutdown(fd, SHUT_RDWR);
          return;
        }
      }
    }
  }

  Say say_;
  int listener_;
  std::string port_;
  std::atomic<int> seen_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::vector<int> clients_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

Requests hello() { return Requests::parse(std::string("\x12\0\0\0", 4) + "GET / HTTP/1.1\r\n\r\n"); }

std::uint64_t total(const Tally& tally, int status) {
  const auto found = tally.answers.find(status);
  return found == tally.answers.end() ? 0 : found->second.total();
}

std::uint64_t above(const Histogram& histogram, std::chrono::nanoseconds least) {
  std::uint64_t count = 0;
  histogram.each([&](std::uint64_t ns, std::uint64_t n) {
    if (ns >= static_cast<std::uint64_t>(least.count())) count += n;
  });
  return count;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_request_is_accounted_for) {
  Server server([](int at) { return at % 3 == 2 ? "HTTP/1.1 429 Later\r\nContent-Length: 0\r\n\r\n" : kSized; });
  Plan plan = server.plan();
  plan.connections = 5;
  const Tally closed = generate(hello(), plan);
  BOOST_TEST(closed.meant > 50U);
  const auto seen = static_cast<std::uint64_t>(server.seen());
  BOOST_TEST((closed.meant <= seen && seen <= closed.meant + plan.connections));  // those sent as the time ended
  BOOST_TEST(total(closed, 200) + total(closed, 429) == closed.meant);
  BOOST_TEST(total(closed, 429) > 0U);
  BOOST_TEST(closed.ended <= total(closed, 200));
  BOOST_TEST((closed.unanswered == 0U && closed.errors.reset == 0U && closed.reconnects == 0U));

  const int before = server.seen();
  plan.rate_per_s = 400;
  const Tally open = generate(hello(), plan);
  BOOST_TEST(open.meant == static_cast<std::uint64_t>(server.seen() - before));
  BOOST_TEST(total(open, 200) + total(open, 429) == open.meant);
  BOOST_TEST((open.meant > 60U && open.meant < 200U));  // 120 by the seed's arrivals, give or take
}

BOOST_AUTO_TEST_CASE(a_stall_is_counted_against_all_who_would_have_come) {
  // One request of a single connection takes 150 ms. Who counts from the sending sees one slow answer; the others, due
  // every millisecond meanwhile, waited as well.
  Server server([](int at) {
    if (at == 40) std::this_thread::sleep_for(150ms);
    return kSized;
  });
  Plan plan = server.plan();
  plan.rate_per_s = 1000;
  const Tally tally = generate(hello(), plan);
  BOOST_TEST(tally.unanswered == 0U);
  BOOST_TEST(above(tally.answers.at(200), 50ms) > 60U);
}

BOOST_AUTO_TEST_CASE(what_is_never_answered_is_not_forgotten) {
  Server server([](int at) {
    if (at >= 10) std::this_thread::sleep_for(600ms);
    return kSized;
  });
  Plan plan = server.plan();
  plan.rate_per_s = 500;
  plan.patience = 50ms;
  const Tally tally = generate(hello(), plan);
  BOOST_TEST(total(tally, 200) + tally.unanswered == tally.meant);
  BOOST_TEST(tally.unanswered > 80U);  // nearly all of 150: most were never even sent

  plan.rate_per_s = 0;
  plan.timeout = 100ms;
  const Tally timed = generate(hello(), plan);
  BOOST_TEST(timed.errors.timeout > 0U);
}

BOOST_AUTO_TEST_CASE(lost_connections_are_errors_and_announced_ends_are_not) {
  Server dying([](int at) { return at % 4 == 3 ? std::string() : kSized; });
  const Tally lost = generate(hello(), dying.plan());
  BOOST_TEST(lost.errors.reset > 0U);
  BOOST_TEST(total(lost, 200) > 0U);
  BOOST_TEST(total(lost, 200) + lost.errors.reset == lost.meant);

  Server polite([](int) { return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"; });
  const Tally ended = generate(hello(), polite.plan());
  BOOST_TEST(ended.errors.reset == 0U);
  BOOST_TEST(ended.reconnects >= ended.meant);
  BOOST_TEST(ended.meant > 10U);

  Server stranger([](int) { return "220 mail here\r\n\r\n"; });
  BOOST_TEST(generate(hello(), stranger.plan()).errors.protocol > 0U);
}

BOOST_AUTO_TEST_CASE(nobody_there_is_told) {
  Plan plan;
  {
    Server gone([](int) { return kSized; });
    plan = gone.plan();
  }
  plan.timeout = 100ms;
  BOOST_CHECK_THROW(generate(hello(), plan), std::runtime_error);
  plan.host = "no such host";
  BOOST_CHECK_THROW(generate(hello(), plan), std::runtime_error);
}
