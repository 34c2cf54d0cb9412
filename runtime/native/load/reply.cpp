#include "load/reply.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

namespace atb::load {
namespace {

bool same(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y));
  });
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool number(std::string_view text, std::size_t& out, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

void Reply::reset() {
  state_ = State::head;
  status_ = 0;
  keep_ = true;
  left_ = 0;
  line_.clear();
}

std::size_t Reply::feed(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && state_ != State::done && state_ != State::broken) {
    const std::string_view rest = bytes.substr(taken);
    switch (state_) {
      case State::head:
        taken += feed_head(rest);
        break;
      case State::body:
      case State::chunk: {
        const std::size_t some = std::min(left_, rest.size());
        taken += some;
        left_ -= some;
        if (left_ == 0) state_ = state_ == State::body ? State::done : State::chunk_size;
        break;
      }
      case State::chunk_size:
      case State::trailer:
        taken += feed_line(rest);
        break;
      case State::until_close:
        return bytes.size();
      default:
        break;
    }
  }
  return taken;
}

void Reply::closed() { state_ = state_ == State::until_close ? State::done : State::broken; }

std::size_t Reply::feed_head(std::string_view bytes) {
  const std::size_t before = line_.size();
  line_.append(bytes.substr(0, kMostHead));
  const std::size_t from = before < 3 ? 0 : before - 3;  // the blank line may have come in parts
  const std::size_t at = line_.find("\r\n\r\n", from);
  if (at == std::string::npos) {
    if (line_.size() >= kMostHead) state_ = State::broken;
    return line_.size() - before;
  }
  const std::size_t taken = at + 4 - before;
  line_.resize(at + 2);
  read_head();
  line_.clear();
  return taken;
}

void Reply::read_head() {
  const std::string_view head = line_;
  std::size_t status = 0;
  if (head.size() < 12 || head.substr(0, 7) != "HTTP/1." || !number(head.substr(9, 3), status, 10)) {
    state_ = State::broken;
    return;
  }
  status_ = static_cast<int>(status);
  keep_ = head[7] == '1';
  bool sized = false;
  bool chunked = false;
  std::size_t at = head.find("\r\n") + 2;
  while (at < head.size()) {
    const std::size_t end = head.find("\r\n", at);
    const std::string_view line = head.substr(at, end - at);
    at = end + 2;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (same(name, "content-length")) {
      sized = number(value, left_, 10);
      if (!sized) state_ = State::broken;
    } else if (same(name, "transfer-encoding")) {
      chunked = same(value, "chunked");
    } else if (same(name, "connection")) {
      keep_ = same(value, "keep-alive") || (keep_ && !same(value, "close"));
    }
  }
  if (state_ == State::broken) return;
  if (status < 200) {  // an interim one: the reply itself comes next
    status_ = 0;
  } else if (status == 204 || status == 304) {
    state_ = State::done;
  } else if (chunked) {
    state_ = State::chunk_size;
  } else if (sized) {
    state_ = left_ == 0 ? State::done : State::body;
  } else {
    state_ = State::until_close;
    keep_ = false;
  }
}

std::size_t Reply::feed_line(std::string_view bytes) {
  const std::size_t end = bytes.find('\n');
  const std::size_t taken = end == std::string_view::npos ? bytes.size() : end + 1;
  line_.append(bytes.substr(0, taken));
  if (line_.size() > kMostHead) {
    state_ = State::broken;
  } else if (end != std::string_view::npos) {
    while (!line_.empty() && (line_.back() == '\n' || line_.back() == '\r')) line_.pop_back();
    read_line();
    line_.clear();
  }
  return taken;
}

void Reply::read_line() {
  if (state_ == State::trailer) {
    if (line_.empty()) state_ = State::done;
    return;
  }
  std::string_view size = line_;
  size = trimmed(size.substr(0, size.find(';')));
  if (!number(size, left_, 16) || left_ > (std::size_t{1} << 40)) {
    state_ = State::broken;
  } else if (left_ == 0) {
    state_ = State::trailer;
  } else {
    left_ += 2;  // its line end
    state_ = State::chunk;
  }
}

}  // namespace atb::load
