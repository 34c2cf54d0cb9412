#include "loop.h"

#include <array>
#include <cstdio>
#include <ctime>

namespace atb {
namespace {

constexpr auto sweep_every = std::chrono::milliseconds(100);
constexpr auto watch_every = std::chrono::milliseconds(5);
constexpr auto closing_time = std::chrono::seconds(2);  // for a client to read a last response

std::shared_ptr<Peer> hold(Peer* peer) { return std::static_pointer_cast<Peer>(peer->shared_from_this()); }

}  // namespace

Loop::Loop(Shared& shared_state)
    : shared(shared_state), service(shared_state, io), stay_(io.get_executor()), sweeper_(io), watcher_(io) {
  sweep_later();
}

void Loop::run() {
  auto active = Clock::now();
  while (!io.stopped()) {
    try {
      if (io.poll() > 0) {
        active = Clock::now();
      } else if (shared.under_way > 0 || Clock::now() - active >= shared.options.spin) {
        io.run_one();
        active = Clock::now();
      }
    } catch (const std::exception& error) {  // of one handler: its connection ends by its time limit
      std::fprintf(stderr, "atb-server: %s\n", error.what());
    }
  }
  while (service.help()) {  // of clients who are gone: whoever ends the server waits for what it asked for
  }
}

void Loop::finish() {
  stay_.reset();
  io.stop();
}

void Loop::join(Peer& peer) {
  peer.slot = peers_.size();
  peers_.push_back(&peer);
}

void Loop::leave(Peer& peer) {
  end_work(peer);
  peers_.back()->slot = peer.slot;
  peers_[peer.slot] = peers_.back();
  peers_.pop_back();
}

void Loop::begin_work(Peer& peer) {
  if (peer.busy_slot == Peer::none) {
    peer.busy_slot = busy_.size();
    busy_.push_back(&peer);
    if (!watching_) {
      watch_later();
    }
  }
}

void Loop::end_work(Peer& peer) {
  if (peer.busy_slot != Peer::none) {
    busy_.back()->busy_slot = peer.busy_slot;
    busy_[peer.busy_slot] = busy_.back();
    busy_.pop_back();
    peer.busy_slot = Peer::none;
  }
}

void Loop::close_idle(std::chrono::milliseconds age) {
  const auto before = Clock::now() - age;
  due_.clear();
  for (Peer* peer : peers_) {
    if (peer->phase == Phase::idle && peer->since <= before) {
      due_.push_back(hold(peer));
    }
  }
  for (const auto& peer : due_) {
    peer->close();
  }
  due_.clear();
}

void Loop::close_all() {
  while (!peers_.empty()) {
    hold(peers_.back())->close();
  }
}

void Loop::sweep_later() {
  sweeper_.expires_after(sweep_every);
  sweeper_.async_wait([this](const boost::system::error_code& ec) {
    if (!ec) {
      sweep();
      sweep_later();
    }
  });
}

void Loop::sweep() {
  const auto now = Clock::now();
  const ServerOptions& options = shared.options;
  due_.clear();
  for (Peer* peer : peers_) {
    const auto age = now - peer->since;
    const Clock::duration limit = peer->phase == Phase::idle      ? Clock::duration(options.idle)
                                  : peer->phase == Phase::working ? Clock::duration::max()
                                  : peer->phase == Phase::closing ? Clock::duration(closing_time)
                                                                  : Clock::duration(options.receive);
    if (age > limit) {
      due_.push_back(hold(peer));
    }
  }
  for (const auto& peer : due_) {
    peer->phase == Phase::receiving ? peer->time_out() : peer->close();
  }
  due_.clear();
}

void Loop::watch_later() {
  watching_ = true;
  watcher_.expires_after(watch_every);
  watcher_.async_wait([this](const boost::system::error_code& ec) {
    watching_ = false;
    if (!ec) {
      watch();
    }
  });
}

void Loop::watch() {
  const auto now = Clock::now();
  due_.clear();
  polled_.clear();
  for (Peer* peer : busy_) {
    if (now - peer->received >= watch_every) {  // the others will be answered before it matters
      due_.push_back(hold(peer));
      polled_.push_back({peer->descriptor(), POLLRDHUP, 0});
    }
  }
  if (!due_.empty()) {
    poll(polled_.data(), polled_.size(), 0);
  }
  for (std::size_t i = 0; i < due_.size(); ++i) {
    Peer& peer = *due_[i];
    if ((polled_[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0) {
      peer.close();
    } else if (!peer.away && peer.deadline <= now) {  // away, its deadline is another thread's
      service.expire(peer);
    }
  }
  due_.clear();
  if (!busy_.empty() && !watching_) {
    watch_later();
  }
}

const std::string& Loop::date() {
  if (const std::time_t now = std::time(nullptr); now != date_of_) {
    date_of_ = now;
    std::tm parts{};
    gmtime_r(&now, &parts);
    std::array<char, 64> text{};
    std::strftime(text.data(), text.size(), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts);
    date_ = text.data();
  }
  return date_;
}

}  // namespace atb
