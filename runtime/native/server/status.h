// What a refusal is called in each protocol: the one table.
#pragma once

#include <cstddef>
#include <string_view>

#include "atb/error.h"

namespace atb {

struct Status {
  unsigned http;
  unsigned predict;       // of TEI's /predict, whose clients expect 422 for what a request says wrongly
  int grpc;               // the number of a grpc::StatusCode
  std::string_view name;  // "error_type" of a body, "outcome" of a metric
  bool retry;             // whether the same request may succeed later: `Retry-After` goes with it
};

const Status& status_of(Kind kind) noexcept;
inline constexpr std::size_t kinds = 9;

}  // namespace atb
