#include "bundle/sha256.h"

#include <array>
#include <boost/hash2/sha2.hpp>
#include <memory>

#include "bundle/file.h"

namespace atb {

std::string sha256_of(std::string_view bytes) {
  boost::hash2::sha2_256 hash;
  hash.update(bytes.data(), bytes.size());
  return to_string(hash.result());
}

Fingerprint fingerprint(const std::filesystem::path& file) {
  constexpr std::size_t kRoom = 1 << 18;
  const File source(file);
  const auto room = std::make_unique<unsigned char[]>(kRoom);
  boost::hash2::sha2_256 hash;
  Fingerprint found;
  while (const std::size_t got = source.read(found.bytes, {room.get(), kRoom})) {
    hash.update(room.get(), got);
    found.bytes += got;
  }
  found.sha256 = to_string(hash.result());
  return found;
}

}  // namespace atb
