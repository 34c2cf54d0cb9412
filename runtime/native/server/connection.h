// A connection over any stream: receives a request, has it answered, sends the answer, and so on in order.
#pragma once

#include <algorithm>
#include <array>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <optional>
#include <type_traits>
#include <utility>

#ifdef ATB_WITH_TLS
#include <boost/asio/ssl/stream.hpp>
#endif

#include "http_head.h"
#include "http_parser.h"
#include "loop.h"

namespace atb {

using Socket = boost::asio::ip::tcp::socket;

template <class Stream>
class Connection final : public Peer {
 public:
  static constexpr bool plain = std::is_same_v<Stream, Socket>;

  Connection(Loop& loop, Stream stream, std::string remote)
      : loop_(loop), stream_(std::move(stream)), remote_(std::move(remote)) {
    loop_.join(*this);
    since = Clock::now();
  }
  ~Connection() override { hang_up(); }

  void start() {
    if constexpr (plain) {
      renew_request();
      receive();
    } else {
      phase = Phase::handshake;
      stream_.async_handshake(Stream::server, [this, self = shared_from_this()](const error_code& ec) {
        if (ec || phase != Phase::handshake) {
          return hang_up();
        }
        renew_request();
        receive();
      });
    }
  }

  int descriptor() override { return socket().native_handle(); }

  void close() override { hang_up(); }

  void time_out() override {
    broken_ = true;
    error_code ignored;
    socket().cancel(ignored);
    received = since;
    loop_.service.refuse(*this, 408, "invalid", "the request did not arrive in time");
  }

  void post(std::function<void()> task) override { boost::asio::dispatch(loop_.io, std::move(task)); }

  void respond() override {
    if (phase == Phase::closed) {
      return;
    }
    loop_.end_work(*this);
    enter(Phase::writing);
    last_ = broken_ || !parser_->is_done() || !request.keep_alive || loop_.shared.stopping;
    write_head(loop_.head, *this, loop_.date(), last_);
    loop_.shared.metrics.responded(response.status);
    if (loop_.shared.log) {
      write_log_line(loop_.line, *this, remote_);
      loop_.shared.log->write(loop_.line);
    }
    if (request.method == HttpRequest::Method::head) {
      response.body.clear();
    }
    std::size_t sent = 0;
    const std::size_t whole = loop_.head.size() + response.body.size();
    if constexpr (plain) {  // nearly always all of it fits into the socket at once
      error_code ec;
      const std::array<boost::asio::const_buffer, 2> both{boost::asio::buffer(loop_.head),
                                                          boost::asio::buffer(response.body)};
      sent = stream_.write_some(both, ec);
      if (ec && ec != boost::asio::error::would_block && ec != boost::asio::error::try_again) {
        return hang_up();
      }
      if (sent == whole) {
        return sent_all();
      }
    }
    response.body.insert(0, loop_.head);
    boost::asio::async_write(stream_, boost::asio::buffer(response.body.data() + sent, whole - sent),
                             [this, self = shared_from_this()](const error_code& ec, std::size_t) {
                               if (phase == Phase::writing) {
                                 ec ? hang_up() : sent_all();
                               }
                             });
  }

 private:
  Socket& socket() {
    if constexpr (plain) {
      return stream_;
    } else {
      return stream_.next_layer();
    }
  }

  void enter(Phase next) {
    phase = next;
    since = Clock::now();
  }

  void hang_up() {
    if (phase == Phase::closed) {
      return;
    }
    if (phase == Phase::working) {
      gone = true;
      if (!away) {
        loop_.service.abandon(*this);
      }
    }
    phase = Phase::closed;
    loop_.leave(*this);
    loop_.shared.body_bytes -= std::exchange(held_, 0);
    loop_.shared.metrics.connections -= 1;
    error_code ignored;
    socket().close(ignored);
  }

  void renew_request() {
    renew();
    loop_.shared.body_bytes -= std::exchange(held_, 0);
    parser_.emplace(request, loop_.shared.options.header_bytes, loop_.shared.options.body_bytes);
    admitted_ = false;
    enter(Phase::idle);
  }

  /// Of what is buffered, or when more of it has come.
  void receive() {
    const std::size_t left = parser_->is_header_done() ? std::size_t{64 * 1024} : std::size_t{4 * 1024};
    stream_.async_read_some(buffer_.prepare(left),
                            [this, self = shared_from_this()](const error_code& ec, std::size_t size) {
                              if (phase != Phase::idle && phase != Phase::receiving) {
                                return;
                              }
                              if (ec) {
                                return hang_up();
                              }
                              buffer_.commit(size);
                              parse();
                            });
  }

  void parse() {
    if (phase == Phase::idle) {
      enter(Phase::receiving);
    }
    const ServerOptions& options = loop_.shared.options;
    bool starved = buffer_.size() == 0;
    while (!starved) {
      error_code ec;
      buffer_.consume(parser_->put(buffer_.data(), ec));
      starved = ec == http::error::need_more || buffer_.size() == 0;
      if (ec && ec != http::error::need_more) {
        return refuse(ec);
      }
      const std::size_t grown = request.body.size() - held_;
      held_ += grown;
      const std::size_t all = loop_.shared.body_bytes += grown;
      if (parser_->is_done()) {
        return work();
      }
      if (all > most_bodies * options.body_bytes && grown > 0) {
        return fail([this] { loop_.service.refuse(*this, Kind::overloaded, "too many large requests at once"); });
      }
      if (parser_->is_header_done() && !admitted_) {
        admitted_ = true;
        received = Clock::now();
        if (!loop_.service.admit(*this)) {
          return;
        }
        if (parser_->expects_continue()) {
          return promise();
        }
      }
    }
    receive();
  }

  void promise() {
    static constexpr std::string_view text = "HTTP/1.1 100 Continue\r\n\r\n";
    boost::asio::async_write(stream_, boost::asio::buffer(text),
                             [this, self = shared_from_this()](const error_code& ec, std::size_t) {
                               if (phase == Phase::receiving) {
                                 ec ? hang_up() : parse();
                               }
                             });
  }

  void work() {
    received = Clock::now();
    phase = Phase::working;
    loop_.service.handle(*this);
    if (phase == Phase::working) {
      loop_.begin_work(*this);
    }
  }

  template <class Refuse>
  void fail(Refuse refuse) {
    broken_ = true;
    received = Clock::now();
    refuse();
  }

  void refuse(const error_code& ec) {
    Service& service = loop_.service;
    const ServerOptions& options = loop_.shared.options;
    fail([&] {
      if (ec == http::error::header_limit) {
        service.refuse(*this, 431, "too_large",
                       "the header is over " + std::to_string(options.header_bytes) + " bytes");
      } else if (ec == http::error::body_limit) {
        service.refuse(*this, Kind::too_large,
                       "the body is over " + std::to_string(options.body_bytes) + " bytes; send fewer rows at once");
      } else if (ec == http::error::bad_version) {
        service.refuse(*this, 505, "invalid", "this server speaks HTTP/1.1");
      } else {
        service.refuse(*this, Kind::invalid, "the request is no HTTP: " + ec.message());
      }
    });
  }

  void sent_all() {
    if (last_) {
      return say_goodbye();
    }
    renew_request();
    if (buffer_.size() == 0) {
      if (buffer_.capacity() > kept_buffer) {
        buffer_ = {};
      }
      return receive();
    }
    // The next one is here already. Others first: a client that sends many at once takes its turn with them.
    enter(Phase::receiving);
    boost::asio::post(loop_.io, [this, self = shared_from_this()] {
      if (phase == Phase::receiving) {
        parse();
      }
    });
  }

  /// Closing while bytes are unread would take the response from a client that still sends.
  void say_goodbye() {
    enter(Phase::closing);
    if constexpr (!plain) {
      stream_.async_shutdown([this, self = shared_from_this()](const error_code&) { drop(); });
    } else {
      error_code ignored;
      stream_.shutdown(Socket::shutdown_send, ignored);
      drop();
    }
  }

  void drop() {
    if (phase != Phase::closing) {
      return;
    }
    buffer_.clear();
    socket().async_read_some(
        buffer_.prepare(16 * 1024),
        [this, self = shared_from_this()](const error_code& ec, std::size_t) { ec ? hang_up() : drop(); });
  }

  static constexpr std::size_t most_bodies = 64;  // of the largest size, in memory at once
  static constexpr std::size_t kept_buffer = 64 * 1024;

  Loop& loop_;
  Stream stream_;
  std::string remote_;
  boost::beast::flat_buffer buffer_;
  std::optional<HttpParser> parser_;
  std::size_t held_ = 0;  // bytes of the body, as counted in `Shared::body_bytes`
  bool admitted_ = false;
  bool broken_ = false;  // what follows in the stream cannot be read
  bool last_ = false;
};

}  // namespace atb
