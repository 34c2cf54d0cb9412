// An event loop, and the connections on it: their time limits, and whether their clients are still there.
#pragma once

#include <poll.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <vector>

#include "service.h"

namespace atb {

enum class Phase { handshake, idle, receiving, working, writing, closing, closed };

/// A connection as its loop sees it.
class Peer : public Exchange {
 public:
  Phase phase = Phase::idle;
  Clock::time_point since{};  // of the phase; of `receiving`: since the first byte
  std::size_t slot = 0;       // in the loop's list of all
  std::size_t busy_slot = none;
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  [[nodiscard]] virtual int descriptor() = 0;
  virtual void close() = 0;
  /// The whole request did not arrive in time.
  virtual void time_out() = 0;
};

/// No timer for each connection: one sweep over all of them, and a faster one over those whose answer is under way.
class Loop {
 public:
  explicit Loop(Shared& shared);

  /// Until `finish`.
  void run();
  void finish();

  void join(Peer& peer);
  void leave(Peer& peer);
  void begin_work(Peer& peer);
  void end_work(Peer& peer);
  /// Closes those that wait for a request for at least `age`.
  void close_idle(std::chrono::milliseconds age);
  void close_all();

  /// "Date: ...\r\n" of now.
  const std::string& date();

  boost::asio::io_context io{1};
  Shared& shared;
  Service service;
  std::string head, line;  // of the response at hand

 private:
  void sweep_later();
  void sweep();
  void watch_later();
  void watch();

  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> stay_;
  boost::asio::steady_timer sweeper_, watcher_;
  bool watching_ = false;
  std::vector<Peer*> peers_, busy_;
  std::vector<std::shared_ptr<Peer>> due_;
  std::vector<pollfd> polled_;
  std::string date_;
  std::time_t date_of_ = 0;
};

}  // namespace atb
