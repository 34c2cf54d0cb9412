// The manifest of a bundle, before any file that it names is opened.
#include "bundle/manifest.h"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto manifest = atb::parse_manifest({reinterpret_cast<const char*>(data), size});
    for (const auto& [name, facts] : manifest.files) {
      if (!atb::stays_inside(name) || facts.sha256.size() != 64) {
        std::abort();
      }
    }
  } catch (const std::invalid_argument&) {  // NOLINT: how it refuses
  }
  return 0;
}
