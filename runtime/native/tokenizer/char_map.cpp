#include "tokenizer/char_map.h"

#include <algorithm>
#include <limits>
#include <map>

#include "tokenizer/unicode.h"

namespace atb {
namespace {

Part part_of(char32_t code) noexcept {
  const std::uint8_t flags = unicode::facts(code).flags;
  return (flags & unicode::kSpace) != 0         ? Part::space
         : (flags & unicode::kPunctuation) != 0 ? Part::punctuation
                                                : Part::word;
}

}  // namespace

CharMap::Entry CharMap::make(char32_t code, const NormalizerSettings& settings) {
  const unicode::Facts facts = unicode::facts(code);
  std::vector<Output> out;
  const auto has = [&](unicode::Flag flag) { return (facts.flags & flag) != 0; };
  const auto single = [&](const Output& one) {
    return ((one.code - code) & kCode) | static_cast<Entry>(one.part) << kPartShift;
  };
  if (settings.clean && has(unicode::kControl)) return kDropped;
  if (settings.clean && has(unicode::kSpace)) return single({U' ', Part::space, 0});
  if (settings.strip && has(unicode::kMark)) return facts.order == 0 ? kBarrier : kDropped;
  unicode::Few left;
  if (settings.strip)
    left = unicode::without_marks(code);
  else
    left.push(code);
  for (const char32_t one : left) {
    unicode::Few small;
    if (settings.lower)
      small = unicode::lower(one);
    else
      small.push(one);
    for (const char32_t each : small)
      out.push_back({each, part_of(each), settings.strip ? unicode::facts(one).order : std::uint8_t{0}});
  }
  const bool spaced = settings.chinese && has(unicode::kChinese);  // all of which fall into one character, or stay
  std::size_t bytes = spaced ? 2 : 0;
  for (const Output& one : out) bytes += utf8::size_of(one.code);
  growth_ = std::max(growth_, (bytes + utf8::size_of(code) - 1) / utf8::size_of(code));
  const bool combining = std::ranges::any_of(out, [](const Output& one) { return one.order != 0; });
  if (out.size() == 1 && !combining) return single(out[0]) | (spaced ? kSpaced : 0U);
  const auto place = static_cast<Entry>(pool_.size());
  pool_.insert(pool_.end(), out.begin(), out.end());
  return place | kPooled | (combining ? kCombining : 0U) | static_cast<Entry>(out.size()) << kCountShift;
}

CharMap::CharMap(const NormalizerSettings& settings) {
  const unicode::Tables tables = unicode::tables();
  std::map<std::uint32_t, std::uint16_t> of_kind;  // blocks in which all have the same facts
  std::map<std::vector<Entry>, std::uint16_t> known;
  std::vector<Entry> block(kBlock);
  auto run = tables.runs.begin();
  for (char32_t first = 0; first < unicode::kEnd; first += kBlock) {
    const char32_t last = first + kBlock - 1;
    while (std::next(run) != tables.runs.end() && std::next(run)->first <= first) ++run;
    const bool alike = (std::next(run) == tables.runs.end() || std::next(run)->first > last) &&
                       tables.kinds[run->kind].lower == 0 && !unicode::any_special(first, last);
    if (const auto found = of_kind.find(run->kind); alike && found != of_kind.end()) {
      blocks_.push_back(found->second);
      continue;
    }
    for (char32_t code = first; code <= last; ++code)
      block[code - first] = alike && code != first ? block[0] : make(code, settings);
    const auto [place, added] = known.try_emplace(block, static_cast<std::uint16_t>(known.size()));
    if (added) entries_.insert(entries_.end(), block.begin(), block.end());
    blocks_.push_back(place->second);
    if (alike) of_kind[run->kind] = place->second;
  }
  for (std::size_t i = 0; i < kAsciiEnd; ++i) {
    const Entry entry = look_up(static_cast<char32_t>(i));
    ascii_[i] = {static_cast<std::uint8_t>(moved(static_cast<char32_t>(i), entry)), part(entry),
                 (entry & kPooled) == 0};
  }
}

std::vector<CharMap::Output> CharMap::reordered(const char*& at, const char* end) const {
  std::vector<Output> out;
  std::size_t sorted = 0;  // up to here all has its place
  const auto settle = [&] {
    std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(sorted), out.end(),
                     [](const Output& a, const Output& b) { return a.order < b.order; });
    sorted = out.size();
  };
  const auto starter = [&](char32_t code, Part of) {
    settle();
    out.push_back({code, of, 0});
    sorted = out.size();
  };
  do {
    const char32_t code = utf8::next(at);
    const Entry entry = look_up(code);
    if ((entry & kPooled) == 0) {
      if ((entry & kSpaced) != 0) starter(U' ', Part::space);
      starter(moved(code, entry), part(entry));
      if ((entry & kSpaced) != 0) starter(U' ', Part::space);
    } else if (entry == kBarrier) {
      settle();
    } else {
      const Output* const outputs = pool_.data() + (entry & kCode);
      for (std::size_t i = 0; i < entry >> kCountShift; ++i) {
        if (outputs[i].order == 0)
          starter(outputs[i].code, outputs[i].part);
        else
          out.push_back(outputs[i]);
      }
    }
  } while (at != end && sorted != out.size());
  settle();
  return out;
}

void CharMap::normalize(std::string_view text, std::string& out) const {
  out.resize(text.size() * growth_ + sizeof(char32_t));
  char* to = out.data();
  walk(text, [&](char32_t code, Part) {
    to = utf8::put(to, code);
    return true;
  });
  out.resize(static_cast<std::size_t>(to - out.data()));
}

}  // namespace atb
