#include "status.h"

#include <array>

namespace atb {
namespace {

// In the order of `Kind`. gRPC: 1 CANCELLED, 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 8
// RESOURCE_EXHAUSTED, 13 INTERNAL, 14 UNAVAILABLE.
constexpr std::array<Status, kinds> table{{
    {400, 422, 3, "invalid", false},
    {404, 404, 5, "not_found", false},
    {413, 413, 8, "too_large", false},
    {429, 429, 8, "overloaded", true},
    {504, 504, 4, "expired", false},
    {499, 499, 1, "cancelled", false},
    {503, 503, 14, "unavailable", true},
    {500, 500, 13, "bundle", false},
    {500, 500, 13, "internal", false},
}};
static_assert(static_cast<std::size_t>(Kind::internal) == kinds - 1, "a kind without a line in the table");

}  // namespace

const Status& status_of(Kind kind) noexcept { return table[static_cast<std::size_t>(kind)]; }

}  // namespace atb
