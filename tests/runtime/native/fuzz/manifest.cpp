// The manifest of a bundle, before any file that it names is opened.
#include "bundle/manifest.h"

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string_view>

#include "bundle/json.h"

namespace {

void law(bool holds) {
  if (!holds) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const atb::json::Node node = atb::json::parse(bytes);
    const std::string canonical = atb::json::canonical(node);
    law(atb::json::canonical(atb::json::parse(canonical)) == canonical);
    law(atb::json::canonical(atb::json::parse(atb::json::indented(node))) == canonical);
    const auto manifest = atb::parse_manifest(bytes);
    law(!manifest.as_written || atb::json::indented(node) + "\n" == bytes);
    for (const auto& [name, facts] : manifest.files) {
      const std::filesystem::path path(name);
      law(!atb::stays_inside(name) || (path.is_relative() && *path.lexically_normal().begin() != ".."));
    }
  } catch (const std::invalid_argument&) {  // NOLINT: how it refuses
  }
  return 0;
}
