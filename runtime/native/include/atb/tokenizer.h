// BERT's WordPiece, bit for bit what Hugging Face `tokenizers` answers for the same tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

namespace atb {

/// A tokenised text or pair, special tokens included, without padding. Reused from call to call.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> types;  // segment of each token, as long as `ids`

  [[nodiscard]] std::size_t size() const noexcept { return ids.size(); }
};

/// How texts that are too long are cut; what the file's truncation section says is not asked.
struct Truncation {
  enum class Strategy : std::uint8_t { longest_first, only_first, only_second };
  Strategy strategy = Strategy::longest_first;
  bool left = false;  // the start is cut off, not the end
};

/// Thread-safe once made: buffers belong to the calling thread.
class Tokenizer {
 public:
  /// Throws `Error(Kind::bundle)` naming the section and setting that it does not compute exactly.
  static Tokenizer from_file(const std::filesystem::path& path);
  static Tokenizer from_json(std::string_view json);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Tokens of a UTF-8 text, cut to `max_length` with special tokens counted. Bytes that are no UTF-8 throw
  /// `Error(Kind::invalid)`, as does a `max_length` that holds no special tokens, and what cannot be cut as asked.
  void encode(std::string_view text, std::size_t max_length, Encoding& out, Truncation how = {}) const;
  void encode(std::string_view first, std::string_view second, std::size_t max_length, Encoding& out,
              Truncation how = {}) const;

  [[nodiscard]] std::int32_t pad_id() const noexcept;
  /// All ids are below it.
  [[nodiscard]] std::size_t vocabulary_size() const noexcept;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atb
