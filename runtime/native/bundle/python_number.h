// Numbers as Python writes them.
#pragma once

#include <string>
#include <string_view>

namespace atb {

/// What `json.dumps(json.loads(literal))` gives for a JSON number: digits of an int as they are, a float as `repr`
/// has it. Empty for what is no finite number.
std::string python_number(std::string_view literal);

}  // namespace atb
