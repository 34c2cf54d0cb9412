#include "front.h"

namespace atb {

bool same_secret(std::string_view given, std::string_view expected) noexcept {
  // Every byte of `given` is compared, against `expected` repeated: how long it takes tells only what the client sent.
  volatile unsigned char differs = given.size() == expected.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size() && !expected.empty(); ++i) {
    differs = differs | static_cast<unsigned char>(given[i] ^ expected[i % expected.size()]);
  }
  return differs == 0 && !expected.empty();
}

}  // namespace atb
