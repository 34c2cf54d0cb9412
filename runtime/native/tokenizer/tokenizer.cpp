#include "atb/tokenizer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "atb/error.h"
#include "bundle/file.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/char_map.h"
#include "tokenizer/settings.h"
#include "tokenizer/truncate.h"
#include "tokenizer/utf8.h"
#include "tokenizer/word_piece.h"

namespace atb {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::uint64_t kMostFileBytes = std::uint64_t{256} << 20;
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;  // of a thread's buffers, from call to call
constexpr std::array kPads = {"[PAD]", "<pad>"};

/// Buffers of one thread; they grow to what its texts need.
struct Scratch {
  std::vector<char> word;
  std::string normal;
  std::array<Ids, 2> ids;

  void trim() {
    if (word.capacity() + normal.capacity() + (ids[0].capacity() + ids[1].capacity()) * sizeof(Ids::value_type) >
        kKeptBytes)
      *this = {};
  }
};

Scratch& scratch() {
  thread_local Scratch of_thread;
  return of_thread;
}

/// Splits normalized text of already normalized characters.
const CharMap& unchanged() {
  static const CharMap map{NormalizerSettings{}};
  return map;
}

/// Cuts what a CharMap gives into words, and these into pieces.
class Words {
 public:
  Words(const WordPiece& model, std::vector<char>& buffer, Ids& ids, std::size_t limit)
      : model_(model), begin_(buffer.data()), end_(begin_), ids_(ids), limit_(limit) {}

  bool operator()(char32_t code, Part part) {
    if (part == Part::word) [[likely]] {
      end_ = utf8::put(end_, code);
      return true;
    }
    finish();
    if (part == Part::punctuation) {
      end_ = utf8::put(end_, code);
      finish();
    }
    return ids_.size() < limit_;
  }
  void finish() {
    if (end_ != begin_) model_.append(begin_, end_, ids_);
    end_ = begin_;
  }

 private:
  const WordPiece& model_;
  char* begin_;
  char* end_;
  Ids& ids_;
  std::size_t limit_;
};

std::size_t specials(const std::vector<Piece>& pieces) {
  std::size_t count = 0;
  for (const Piece& piece : pieces) count += piece.ids.size();
  return count;
}

/// The added tokens with the ids that `tokenizers` gives them: those of the vocabulary, or the next ones after as many
/// as it has words. The file's own ids play no part.
class Adding {
 public:
  Adding(const WordPieceSettings& model, const CharMap& normalizer)
      : normalizer_(normalizer), next_(static_cast<std::int64_t>(model.vocabulary.size())) {
    for (const auto& [word, id] : model.vocabulary) known_[word] = id;
  }

  void add(const AddedTokenSettings& token) {
    if (token.content.empty()) return;
    const auto known = known_.find(token.content);
    const std::int64_t id = known != known_.end() ? known->second : next_++;
    if (id > std::numeric_limits<std::int32_t>::max()) throw std::invalid_argument("added_tokens need too large ids");
    known_[token.content] = static_cast<std::int32_t>(id);
    tokens_[static_cast<std::int32_t>(id)] = token;
    if (!token.normalized) return;
    std::string normal;
    normalizer_.normalize(token.content, normal);
    // Kept by id, and where a later token takes the same id, kept for that: as `tokenizers` keeps it.
    if (normal != token.content) normal_[static_cast<std::int32_t>(id)] = normal;
  }

  /// Those to be found in the normalized text, or in the text itself.
  [[nodiscard]] AddedTokens tokens(bool normalized) const {
    std::vector<AddedToken> found;
    for (const auto& [id, flags] : tokens_) {
      if (flags.normalized != normalized) continue;
      const auto normal = normal_.find(id);
      found.push_back({normalized && normal != normal_.end() ? normal->second : flags.content, id, flags});
    }
    return AddedTokens(std::move(found));
  }
  /// Id of a token, below 0 where there is none.
  [[nodiscard]] std::int32_t find(const std::string& token) const {
    const auto found = known_.find(token);
    return found == known_.end() ? -1 : found->second;
  }
  [[nodiscard]] std::size_t size() const {
    std::int32_t most = 0;
    for (const auto& [word, id] : known_) most = std::max(most, id);
    return static_cast<std::size_t>(most) + 1;
  }

 private:
  const CharMap& normalizer_;
  std::unordered_map<std::string, std::int32_t> known_;
  std::map<std::int32_t, AddedTokenSettings> tokens_;
  std::map<std::int32_t, std::string> normal_;
  std::int64_t next_;
};

}  // namespace

struct Tokenizer::Impl {
  CharMap normalizer;
  WordPiece model;
  AddedTokens raw;         // found in the text as it comes
  AddedTokens normalized;  // found in the normalized text
  std::vector<Piece> single;
  std::vector<Piece> pair;
  std::size_t single_specials;
  std::size_t pair_specials;
  std::int32_t pad_id;
  std::size_t vocabulary_size;

  static std::unique_ptr<Impl> make(Settings settings) {
    CharMap normalizer(settings.normalizer);
    Adding adding(settings.model, normalizer);
    for (const AddedTokenSettings& token : settings.added) adding.add(token);
    std::int32_t pad_id = settings.pad_id;
    for (const char* name : kPads)
      if (pad_id < 0) pad_id = adding.find(name);
    if (pad_id < 0)
      throw std::invalid_argument(std::string("it has no padding section and no token ") + kPads[0] + " or " +
                                  kPads[1]);
    AddedTokens raw = adding.tokens(false);
    AddedTokens normalized = adding.tokens(true);
    const std::size_t size = adding.size();
    const std::size_t of_single = specials(settings.single);
    const std::size_t of_pair = specials(settings.pair);
    return std::unique_ptr<Impl>(new Impl{std::move(normalizer), WordPiece(settings.model), std::move(raw),
                                          std::move(normalized), std::move(settings.single), std::move(settings.pair),
                                          of_single, of_pair, pad_id, size});
  }

  /// All ids of a text without special ones, or at least the first `limit`.
  void tokenize(std::string_view text, std::size_t limit, Ids& ids) const {
    ids.clear();
    if (const std::size_t bad = utf8::first_bad(text); bad != std::string_view::npos)
      throw Error(Kind::invalid, "the text is no UTF-8 at byte " + std::to_string(bad) + "; send it as UTF-8");
    const auto piece = [&](std::string_view part) {
      if (normalized.empty()) {
        words(part, normalizer, limit, ids);
      } else {
        std::string& normal = scratch().normal;
        normalizer.normalize(part, normal);
        normalized.split(
            normal, [&](std::string_view gap) { return words(gap, unchanged(), limit, ids); },
            [&](std::int32_t id) { return append(id, limit, ids); });
      }
      return ids.size() < limit;
    };
    if (raw.empty())
      piece(text);
    else
      raw.split(text, piece, [&](std::int32_t id) { return append(id, limit, ids); });
  }

  bool words(std::string_view text, const CharMap& map, std::size_t limit, Ids& ids) const {
    std::vector<char>& buffer = scratch().word;
    if (const std::size_t room = text.size() * map.growth() + sizeof(char32_t); buffer.size() < room)
      buffer.resize(room);
    Words sink(model, buffer, ids, limit);
    if (map.walk(text, sink)) sink.finish();
    return ids.size() < limit;
  }

  static bool append(std::int32_t id, std::size_t limit, Ids& ids) {
    ids.push_back(id);
    return ids.size() < limit;
  }

  void join(const std::vector<Piece>& pieces, std::array<std::size_t, 2> kept, bool left, Encoding& out) const {
    out.ids.clear();
    out.types.clear();
    for (const Piece& piece : pieces) {
      if (piece.of == Piece::Of::special) {
        out.ids.insert(out.ids.end(), piece.ids.begin(), piece.ids.end());
      } else {
        const std::size_t which = piece.of == Piece::Of::first ? 0 : 1;
        const Ids& ids = scratch().ids[which];
        const auto from = ids.end() - static_cast<std::ptrdiff_t>(left ? kept[which] : ids.size());
        out.ids.insert(out.ids.end(), from, from + static_cast<std::ptrdiff_t>(kept[which]));
      }
      out.types.resize(out.ids.size(), piece.type);
    }
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_json(std::string_view json) {
  try {
    return Tokenizer(Impl::make(parse_settings(json)));
  } catch (const std::logic_error& error) {  // invalid_argument, length_error
    throw Error(Kind::bundle, std::string("tokenizer.json: ") + error.what());
  }
}

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  std::string text;
  try {
    const File file(path);
    if (file.size() > kMostFileBytes)
      throw Error(Kind::bundle, path.string() + " has " + std::to_string(file.size()) + " bytes, a tokenizer at most " +
                                    std::to_string(kMostFileBytes));
    text.resize(file.size());
    text.resize(file.read(0, {reinterpret_cast<unsigned char*>(text.data()), text.size()}));
  } catch (const std::system_error& error) {
    throw Error(Kind::bundle, path.string() + " cannot be read: " + error.code().message());
  }
  return from_json(text);
}

void Tokenizer::encode(std::string_view text, std::size_t max_length, Encoding& out, Truncation how) const {
  const std::size_t room = room_beside(impl_->single_specials, max_length);
  Scratch& work = scratch();
  // What is cut off at the end need not be looked at, but for whether there is any.
  const bool all = how.left || room == std::numeric_limits<std::size_t>::max();
  impl_->tokenize(text, all ? std::numeric_limits<std::size_t>::max() : room + 1, work.ids[0]);
  impl_->join(impl_->single, {kept(work.ids[0].size(), room, how), 0}, how.left, out);
  work.trim();
}

void Tokenizer::encode(std::string_view first, std::string_view second, std::size_t max_length, Encoding& out,
                       Truncation how) const {
  const std::size_t room = room_beside(impl_->pair_specials, max_length);
  Scratch& work = scratch();
  impl_->tokenize(first, std::numeric_limits<std::size_t>::max(), work.ids[0]);
  impl_->tokenize(second, std::numeric_limits<std::size_t>::max(), work.ids[1]);
  impl_->join(impl_->pair, kept_of_pair(work.ids[0].size(), work.ids[1].size(), room, how), how.left, out);
  work.trim();
}

std::int32_t Tokenizer::pad_id() const noexcept { return impl_->pad_id; }
std::size_t Tokenizer::vocabulary_size() const noexcept { return impl_->vocabulary_size; }

}  // namespace atb
