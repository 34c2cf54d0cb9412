#include "access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>

namespace atb {
namespace {
constexpr std::size_t most_bytes = 1024 * 1024;
constexpr auto gather = std::chrono::milliseconds(20);     // of lines for one write
constexpr auto patience = std::chrono::milliseconds(200);  // with a file that takes nothing
}  // namespace

AccessLog::AccessLog(const std::string& path, Counter& dropped)
    : file_(path == "-" ? dup(STDOUT_FILENO) : open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640)),
      dropped_(dropped) {
  if (file_ < 0) {
    throw Error(Kind::invalid, "the access log " + path + " does not open: " + std::strerror(errno));
  }
  thread_ = std::thread([this] { run(); });
}

AccessLog::~AccessLog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
  close(file_);
}

void AccessLog::write(std::string_view line) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() + line.size() > most_bytes) {
      add(dropped_);
      return;
    }
    first = waiting_.empty();
    waiting_ += line;
  }
  if (first) {
    wake_.notify_one();
  }
}

/// In pieces that a pipe takes whole: where nobody reads it, the end of the server does not wait for him.
void AccessLog::send(std::string_view lines) {
  while (!lines.empty()) {
    pollfd ready{file_, POLLOUT, 0};
    if (poll(&ready, 1, static_cast<int>(patience.count())) == 0) {
      if (!stop_) {
        continue;
      }
      break;
    }
    const ssize_t written = ::write(file_, lines.data(), std::min<std::size_t>(lines.size(), PIPE_BUF));
    if (written < 0 && errno != EINTR) {
      break;
    }
    lines.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
  }
  add(dropped_, static_cast<std::uint64_t>(std::count(lines.begin(), lines.end(), '\n')));
}

void AccessLog::run() {
  std::string lines;
  std::unique_lock lock(mutex_);
  while (!stop_ || !waiting_.empty()) {
    wake_.wait(lock, [this] { return stop_.load() || !waiting_.empty(); });
    wake_.wait_for(lock, gather, [this] { return stop_.load(); });
    lines.swap(waiting_);
    lock.unlock();
    send(lines);
    lines.clear();
    lock.lock();
  }
}

}  // namespace atb
