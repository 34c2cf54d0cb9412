#include "load/requests.h"

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace atb::load {

Requests Requests::read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  try {
    return parse(std::move(bytes));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

Requests Requests::parse(std::string bytes) {
  Requests found;
  for (std::size_t at = 0; at < bytes.size();) {
    if (bytes.size() - at < 4) throw std::runtime_error("ends within the size of a request");
    std::size_t size = 0;
    for (unsigned i = 0; i < 4; ++i)
      size |= static_cast<std::size_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    at += 4;
    if (size == 0 || size > bytes.size() - at) throw std::runtime_error("ends within a request, or one is empty");
    found.parts_.push_back({at, size});
    at += size;
  }
  if (found.parts_.empty()) throw std::runtime_error("holds no request");
  found.bytes_ = std::move(bytes);
  return found;
}

}  // namespace atb::load
