// The example page.
#pragma once

#include "exchange.h"

namespace atb {

void write_page(HttpResponse& response);

}  // namespace atb
