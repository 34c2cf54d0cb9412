// The content of a manifest.json.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "atb/bundle.h"

namespace atb {

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr std::int64_t kSchema = 1;
inline constexpr std::uint64_t kMostManifestBytes = 16 << 20;

struct FileFacts {
  std::string sha256;
  std::uint64_t bytes = 0;
};

struct Manifest {
  Bundle bundle;  // paths still as they are written, within the folder
  std::map<std::string, FileFacts> files;
  bool as_written = false;  // byte for byte what `runtime.manifest` writes for this content, its own hash included
};

/// Throws `std::invalid_argument` naming what is no manifest of this schema. Opens no file.
Manifest parse_manifest(std::string_view text);

/// Whether a file's name is a plain path below the folder, written in the one way there is.
bool stays_inside(std::string_view name);

/// A path of a model's weights, from the bundle's folder: `location` is relative to the folder of `onnx`.
std::string beside(std::string_view onnx, std::string_view location);

}  // namespace atb
