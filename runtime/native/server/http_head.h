// The head of a response, and its line in the access log.
#pragma once

#include <string>
#include <string_view>

#include "exchange.h"

namespace atb {

/// To `out`, which is emptied. `date` is a whole line.
void write_head(std::string& out, const Exchange& exchange, std::string_view date, bool close);
void write_log_line(std::string& out, const Exchange& exchange, std::string_view remote);

}  // namespace atb
