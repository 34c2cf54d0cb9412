// One HTTP/1.1 reply, read as it arrives. Bodies are counted, not kept.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atb::load {

class Reply {
 public:
  enum class State { head, body, chunk_size, chunk, trailer, until_close, done, broken };

  /// Forgets the last reply.
  void reset();
  /// Takes bytes and returns how many belong to this reply; fewer than given once it is done or broken.
  std::size_t feed(std::string_view bytes);
  /// The peer has closed: ends a reply that has no other end.
  void closed();

  [[nodiscard]] bool done() const noexcept { return state_ == State::done; }
  [[nodiscard]] bool broken() const noexcept { return state_ == State::broken; }
  [[nodiscard]] bool begun() const noexcept { return state_ != State::head || !line_.empty(); }
  [[nodiscard]] int status() const noexcept { return status_; }
  /// Whether the connection may carry another request.
  [[nodiscard]] bool keep() const noexcept { return keep_; }

 private:
  static constexpr std::size_t kMostHead = 64 * 1024;

  std::size_t feed_head(std::string_view bytes);
  std::size_t feed_line(std::string_view bytes);
  void read_head();
  void read_line();

  State state_ = State::head;
  int status_ = 0;
  bool keep_ = true;
  std::size_t left_ = 0;  // of the body or chunk
  std::string line_;      // what has come of the head, or of a line between chunks
};

}  // namespace atb::load
