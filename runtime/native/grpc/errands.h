// A thread for what would hold up the threads that serve connections.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace atb::rpc {

/// Runs what is given to it one after the other, on its own thread. What waits at its end is still run.
class Errands {
 public:
  Errands() : thread_([this] { run(); }) {}
  ~Errands();
  void add(std::function<void()> task);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace atb::rpc
