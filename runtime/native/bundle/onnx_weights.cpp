#include "bundle/onnx_weights.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <stdexcept>

#include "bundle/file.h"

namespace atb {
namespace {

constexpr int kDeepest = 16;              // graphs in each other
constexpr std::uint64_t kLongest = 4096;  // a path, the name of a key, a number
constexpr std::size_t kMostFiles = 4096;

// Field numbers of the messages that are followed.
namespace model {
enum : std::uint64_t { graph = 7, opset = 8, function = 25 };
}
namespace graph {
enum : std::uint64_t { node = 1, initializer = 5, sparse = 15 };
}
namespace node {
enum : std::uint64_t { attribute = 5 };
}
namespace attribute {
enum : std::uint64_t { tensor = 5, graph = 6, tensors = 10, graphs = 11, sparse = 22, sparses = 23 };
}
namespace function {
enum : std::uint64_t { node = 7, attribute = 11 };
}
namespace sparse {
enum : std::uint64_t { values = 1, indices = 2 };
}
namespace tensor {
enum : std::uint64_t { external = 13, location = 14 };
}
namespace entry {
enum : std::uint64_t { key = 1, value = 2 };
}

[[noreturn]] void malformed(const std::string& why) { throw std::invalid_argument(why); }

/// Bytes by position, read through a window: a file that shrinks meanwhile is an error, not a signal.
class Bytes {
 public:
  explicit Bytes(std::span<const unsigned char> data) : view_(data), size_(data.size()) {}
  explicit Bytes(const File& file) : file_(&file), room_(1 << 16), size_(file.size()) {}

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  unsigned char operator[](std::uint64_t at) {
    if (at - start_ >= view_.size()) fetch(at);
    return view_[at - start_];
  }

 private:
  const File* file_ = nullptr;
  std::vector<unsigned char> room_;
  std::span<const unsigned char> view_;
  std::uint64_t start_ = 0;
  std::uint64_t size_;

  void fetch(std::uint64_t at) {
    const std::size_t got = file_ == nullptr ? 0 : file_->read(at, room_);
    if (got == 0) malformed("the file has become shorter");
    view_ = {room_.data(), got};
    start_ = at;
  }
};

struct Range {
  std::uint64_t at, end;
};

/// A field: a number, or the bytes of a message, text or number of fixed width.
struct Field {
  std::uint64_t number;
  bool varint;
  std::uint64_t value;
  Range bytes;
};

class Walker {
 public:
  explicit Walker(Bytes& bytes) : bytes_(bytes) {}

  std::vector<ExternalWeights> walk() {
    if (bytes_.size() == 0) malformed("the file is empty");
    int graphs = 0;
    bool opsets = false;
    each({0, bytes_.size()}, [&](const Field& f) {
      if (f.number == model::graph) walk_graph(message(f), 0), ++graphs;
      if (f.number == model::opset) opsets = true;
      if (f.number == model::function)
        each(message(f), [&](const Field& g) {
          if (g.number == function::node) walk_node(message(g), 1);
          if (g.number == function::attribute) walk_attribute(message(g), 1);
        });
    });
    if (graphs != 1) malformed("it has no graph");
    if (!opsets) malformed("it names no opset");
    std::vector<ExternalWeights> out;
    for (auto& [location, size] : found_) out.push_back({location, size});
    return out;
  }

 private:
  Bytes& bytes_;
  std::map<std::string, std::uint64_t> found_;

  template <typename Visit>
  void each(Range range, const Visit& visit) {
    while (range.at < range.end) {
      const std::uint64_t key = varint(range);
      Field field{.number = key >> 3, .varint = (key & 7) == 0, .value = 0, .bytes = {}};
      if (field.number == 0) malformed("a field has the number 0");
      std::uint64_t size = 0;
      switch (key & 7) {
        case 0:
          field.value = varint(range);
          break;
        case 1:
          size = 8;
          break;
        case 2:
          size = varint(range);
          break;
        case 5:
          size = 4;
          break;
        default:
          malformed("no field has the wire type " + std::to_string(key & 7));
      }
      if (size > range.end - range.at)
        malformed("a field of " + std::to_string(size) + " bytes has " + std::to_string(range.end - range.at) +
                  " left");
      field.bytes = {range.at, range.at + size};
      range.at += size;
      visit(field);
    }
  }

  /// A number of 7 bits a byte, the lowest first; moves `range` behind it.
  std::uint64_t varint(Range& range) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; range.at < range.end && shift < 70; shift += 7) {
      const std::uint64_t byte = bytes_[range.at++];
      if (shift == 63 && (byte & 126) != 0) malformed("a number has more than 64 bits");
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    malformed("a number has no end");
  }

  static Range message(const Field& field) {
    if (field.varint) malformed("a number stands where a message should");
    return field.bytes;
  }

  std::string text(const Field& field) {
    const Range range = message(field);
    if (range.end - range.at > kLongest) malformed("a name of external data is too long");
    std::string out;
    for (std::uint64_t at = range.at; at < range.end; ++at) out += static_cast<char>(bytes_[at]);
    return out;
  }

  void walk_graph(Range range, int depth) {
    if (depth > kDeepest) malformed("graphs lie more than " + std::to_string(kDeepest) + " deep in each other");
    each(range, [&](const Field& f) {
      if (f.number == graph::node) walk_node(message(f), depth);
      if (f.number == graph::initializer) walk_tensor(message(f));
      if (f.number == graph::sparse) walk_sparse(message(f));
    });
  }

  void walk_node(Range range, int depth) {
    each(range, [&](const Field& f) {
      if (f.number == node::attribute) walk_attribute(message(f), depth);
    });
  }

  void walk_attribute(Range range, int depth) {
    each(range, [&](const Field& f) {
      if (f.number == attribute::tensor || f.number == attribute::tensors) walk_tensor(message(f));
      if (f.number == attribute::graph || f.number == attribute::graphs) walk_graph(message(f), depth + 1);
      if (f.number == attribute::sparse || f.number == attribute::sparses) walk_sparse(message(f));
    });
  }

  void walk_sparse(Range range) {
    each(range, [&](const Field& f) {
      if (f.number == sparse::values || f.number == sparse::indices) walk_tensor(message(f));
    });
  }

  void walk_tensor(Range range) {
    bool elsewhere = false;
    std::map<std::string, std::string> facts;
    each(range, [&](const Field& f) {
      if (f.number == tensor::location) elsewhere = f.varint && f.value == 1;
      if (f.number != tensor::external) return;
      std::string key, value;
      each(message(f), [&](const Field& g) {
        if (g.number == entry::key) key = text(g);
        if (g.number == entry::value) value = text(g);
      });
      if (facts.size() > 16 || !facts.emplace(std::move(key), std::move(value)).second)
        malformed("external data names a key twice, or too many");
    });
    if (!elsewhere && facts.empty()) return;
    const auto location = facts.find("location");
    if (location == facts.end()) malformed("external data has no location");
    const std::uint64_t offset = count(facts, "offset");
    const std::uint64_t length = count(facts, "length");
    if (offset + length < offset) malformed("external data ends beyond any file");
    std::uint64_t& most = found_[location->second];
    most = std::max(most, offset + length);
    if (found_.size() > kMostFiles) malformed("weights lie in more than " + std::to_string(kMostFiles) + " files");
  }

  static std::uint64_t count(const std::map<std::string, std::string>& facts, const char* name) {
    const auto found = facts.find(name);
    if (found == facts.end()) return 0;
    const std::string& digits = found->second;
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc{} || end != digits.data() + digits.size())
      malformed(std::string("external data has the ") + name + " '" + digits.substr(0, 40) + "'");
    return value;
  }
};

}  // namespace

std::vector<ExternalWeights> external_weights(const std::filesystem::path& onnx) {
  const File file(onnx);
  Bytes bytes(file);
  return Walker(bytes).walk();
}

std::vector<ExternalWeights> external_weights(std::span<const unsigned char> onnx) {
  Bytes bytes(onnx);
  return Walker(bytes).walk();
}

}  // namespace atb
