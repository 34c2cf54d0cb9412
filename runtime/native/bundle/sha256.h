// SHA-256 of bytes and files, as 64 hexadecimal digits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace atb {

std::string sha256_of(std::string_view bytes);

struct Fingerprint {
  std::string sha256;
  std::uint64_t bytes = 0;
};

/// Of a plain file, never of what a link points to. Throws `std::system_error` where it cannot be read.
Fingerprint fingerprint(const std::filesystem::path& file);

}  // namespace atb
