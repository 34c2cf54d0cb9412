// Lines to a file, written by a thread of its own: who logs never waits for a disk.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "metrics.h"

namespace atb {

class AccessLog {
 public:
  /// Appends to a file; "-": stdout. Throws `Error(Kind::invalid)` where it does not open.
  AccessLog(const std::string& path, Counter& dropped);
  ~AccessLog();  // what was logged is written
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  /// A line with its end. Dropped, and counted, where a megabyte waits already.
  void write(std::string_view line);

 private:
  void run();
  void send(std::string_view lines);

  int file_;
  Counter& dropped_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::string waiting_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace atb
