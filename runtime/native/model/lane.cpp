#include "lane.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace atb {
namespace {

// A size must be this much faster a row than those below it: less is the noise of a moment.
constexpr double clearly = 0.99;
// How long an engine is timed: at least so many runs, more while this has not passed.
constexpr int least_runs = 4;
constexpr std::chrono::milliseconds timed_for{20};

using Logits = std::vector<float>;

/// One batch of these rows, the last one repeated where there are fewer than the batch has.
std::span<const float> compute(Session& session, std::size_t batch, std::size_t length,
                               std::span<const Encoding* const> rows, const Vocabulary& vocabulary) {
  const Inputs inputs = session.inputs(batch, length);
  for (std::size_t i = 0; i < batch; ++i) {
    fill(inputs, i, length, *rows[std::min(i, rows.size() - 1)], vocabulary);
  }
  return session.run();
}

bool same_bits(std::span<const float> left, std::span<const float> right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(), [](float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  });
}

/// Whether every row of a batch is what it is alone: at any place, in any company, and beside copies of itself.
bool answers_alike(const Engine& engine, std::size_t batch, std::size_t length, const std::vector<Encoding>& rows,
                   const std::vector<Logits>& alone, const Vocabulary& vocabulary) {
  const auto session = engine.session();
  std::vector<const Encoding*> chosen(batch);
  for (std::size_t turn = 0; turn < rows.size(); ++turn) {
    // The last turn is a batch of which only the first row is wanted.
    const bool partial = turn + 1 == rows.size();
    chosen.resize(partial ? 1 : batch);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      chosen[i] = &rows[(turn + i) % rows.size()];
    }
    const auto logits = compute(*session, batch, length, chosen, vocabulary);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (!same_bits(logits.subspan(i * engine.labels(), engine.labels()), alone[(turn + i) % rows.size()])) {
        return false;
      }
    }
  }
  return true;
}

double time_us(const Engine& engine, std::size_t batch, std::size_t length, const std::vector<Encoding>& rows,
               const Vocabulary& vocabulary) {
  const auto session = engine.session();
  std::vector<const Encoding*> chosen;
  for (std::size_t i = 0; i < batch; ++i) {
    chosen.push_back(&rows[i % rows.size()]);
  }
  auto fastest = Clock::duration::max();
  const auto until = Clock::now() + timed_for;
  for (int i = 0; i < least_runs || Clock::now() < until; ++i) {
    const auto begun = Clock::now();
    compute(*session, batch, length, chosen, vocabulary);
    fastest = std::min(fastest, Clock::now() - begun);
  }
  return std::chrono::duration<double, std::micro>(fastest).count();
}

/// Null where the entry exists for other numbers of rows only.
std::shared_ptr<const Engine> try_open(const EngineEntry& entry, std::size_t rows, const Model::Opener& open,
                                       unsigned at_once) {
  try {
    return open(entry, rows, at_once);
  } catch (const Error&) {
    return nullptr;
  }
}

}  // namespace

bool fill(const Inputs& inputs, std::size_t row, std::size_t length, const Encoding& tokens,
          const Vocabulary& vocabulary) {
  const std::size_t count = tokens.size();
  bool sound = count > 0 && count <= length && tokens.types.size() == count;
  if (sound) {
    const auto known = [&](std::int32_t id) { return static_cast<std::uint32_t>(id) < vocabulary.size; };
    const auto segment = [](std::uint8_t type) { return type < 2; };
    sound = std::all_of(tokens.ids.begin(), tokens.ids.end(), known) &&
            std::all_of(tokens.types.begin(), tokens.types.end(), segment);
  }
  const std::size_t used = sound ? count : 0;
  const auto write = [&](std::span<std::int64_t> all, const auto& values, std::int64_t rest) {
    if (!all.empty()) {
      const auto out = all.subspan(row * length, length);
      std::fill(std::copy_n(values, used, out.begin()), out.end(), rest);
    }
  };
  write(inputs.ids, tokens.ids.begin(), vocabulary.pad);
  write(inputs.types, tokens.types.begin(), 0);
  if (!inputs.mask.empty()) {
    // A row of padding only would be 0 / 0 in every attention: its first token counts.
    const auto out = inputs.mask.subspan(row * length, length);
    std::fill(std::fill_n(out.begin(), std::max<std::size_t>(used, 1), 1), out.end(), 0);
  }
  return sound;
}

std::vector<Encoding> probes(std::size_t count, std::size_t length, const Vocabulary& vocabulary) {
  std::uint64_t state = 0x9E3779B97F4A7C15U + length;  // the same rows at every start
  const auto next = [&state](std::size_t below) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::size_t>((state >> 33U) % below);
  };
  std::vector<Encoding> rows(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t size = i % 3 == 0 ? length : 1 + next(length);
    const std::size_t second = next(size + 1);  // where the other segment begins
    for (std::size_t token = 0; token < size; ++token) {
      rows[i].ids.push_back(static_cast<std::int32_t>(next(vocabulary.size)));
      rows[i].types.push_back(i % 2 == 1 && token >= second ? 1 : 0);
    }
  }
  return rows;
}

std::vector<std::size_t> cheapest_steps(std::span<const Lane::Size> sizes, std::size_t most) {
  std::vector<double> us(most + 1, 0);
  std::vector<std::size_t> steps(most + 1, 0);
  for (std::size_t rows = 1; rows <= most; ++rows) {
    us[rows] = std::numeric_limits<double>::max();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const double way = sizes[i].us + us[rows - std::min(rows, sizes[i].rows)];
      if (way <= us[rows]) {  // among equals the larger: fewer runs
        us[rows] = way;
        steps[rows] = i;
      }
    }
  }
  return steps;
}

Lane::Lane(const EngineEntry& entry, std::span<const std::size_t> rows, const Model::Opener& open, unsigned at_once,
           const Vocabulary& vocabulary)
    : length_(entry.target.length), dynamic_(entry.target.dynamic) {
  auto first = try_open(entry, 1, open, at_once);
  const std::size_t own = first ? 1 : entry.target.batch;
  if (!first) {
    first = open(entry, 0, at_once);
  }
  std::vector<std::size_t> others(rows.begin(), rows.end());
  others.push_back(entry.target.batch);
  std::sort(others.begin(), others.end());
  others.erase(std::unique(others.begin(), others.end()), others.end());

  const auto asked = probes(std::max<std::size_t>(others.back(), 8) + 1, length_, vocabulary);
  std::vector<Logits> alone;
  for (const auto session = first->session(); const Encoding& row : asked) {
    const Encoding* one = &row;
    const auto logits = compute(*session, own, padded(row), {&one, 1}, vocabulary);
    const auto end = logits.begin() + static_cast<std::ptrdiff_t>(first->labels());
    alone.emplace_back(logits.begin(), end);
  }
  sizes_.push_back({own, first, time_us(*first, own, length_, asked, vocabulary)});
  for (const std::size_t size : others) {
    if (dynamic_ || size <= own) {
      continue;
    }
    const auto engine = try_open(entry, size, open, at_once);
    if (!engine || !answers_alike(*engine, size, length_, asked, alone, vocabulary)) {
      continue;
    }
    const double us = time_us(*engine, size, length_, asked, vocabulary);
    const auto share = [](double all, std::size_t of) { return all / static_cast<double>(of); };
    if (std::all_of(sizes_.begin(), sizes_.end(),
                    [&](const Size& x) { return share(us, size) < clearly * share(x.us, x.rows); })) {
      sizes_.push_back({size, engine, us});
    }
  }
  steps_ = cheapest_steps(sizes_, most());
}

std::size_t Lane::step(std::size_t rows) const noexcept { return steps_[std::min(rows, most())]; }

}  // namespace atb
