#include "answers.h"

#include <strings.h>

#include "server/status.h"

namespace atb::rpc {
namespace {

constexpr std::size_t most_message_bytes = 1024;
constexpr std::string_view scheme = "bearer ";

/// Cut between two characters.
void shorten(std::string& message) {
  if (message.size() <= most_message_bytes) {
    return;
  }
  std::size_t end = most_message_bytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0U) == 0x80U) {
    --end;
  }
  message.resize(end);
  message += "...";
}

}  // namespace

grpc::Status refusal(Kind kind, std::string message) {
  shorten(message);
  return {static_cast<grpc::StatusCode>(status_of(kind).grpc), message};
}

grpc::Status unauthenticated() {
  return {grpc::StatusCode::UNAUTHENTICATED, "this server asks for its token: authorization: Bearer TOKEN"};
}

Found Shared::find(const std::string& name, const std::string& version) {
  Found found{registry.find(name, version), version, nullptr};
  const std::lock_guard lock(mutex_);
  const auto at = known_.find({name, version});
  if (at != known_.end() && at->second.model.lock() == found.model) {
    found.version = at->second.version;
    found.metrics = at->second.metrics;
    return found;
  }
  for (const Registry::Entry& entry : registry.entries()) {
    if (entry.model == found.model) {
      found.version = entry.version;
    }
  }
  found.metrics = &metrics.of(name);
  known_.insert_or_assign({name, version}, Known{found.model, found.version, found.metrics});
  return found;
}

bool Shared::admits(const grpc::CallbackServerContext& context) const {
  if (options.token.empty()) {
    return true;
  }
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  if (begin == end || std::next(begin) != end) {
    return false;
  }
  const std::string_view value(begin->second.data(), begin->second.size());
  return value.size() > scheme.size() && strncasecmp(value.data(), scheme.data(), scheme.size()) == 0 &&
         same_secret(value.substr(scheme.size()), options.token);
}

}  // namespace atb::rpc
