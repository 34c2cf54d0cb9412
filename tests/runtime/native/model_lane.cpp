// Which batch sizes are worth using, and how rows are laid out.
#define BOOST_TEST_MODULE model
#include <boost/test/included/unit_test.hpp>
#include <random>

#include "model/lane.h"
#include "model_fakes.h"

namespace atb::test {
namespace {

using std::chrono::microseconds;

const Vocabulary vocabulary{.pad = 7, .size = kWords};

std::vector<std::size_t> sizes_of(const Lane& lane) {
  std::vector<std::size_t> sizes;
  for (const auto& size : lane.sizes()) {
    sizes.push_back(size.rows);
  }
  return sizes;
}

Lane lane_of(const std::shared_ptr<Facts>& facts, const EngineEntry& of = entry(16),
             const std::vector<std::size_t>& rows = {2, 4, 8}) {
  return {of, rows, opener(facts), 1, vocabulary};
}

/// Cheaper a row, the more rows: clearly so.
std::shared_ptr<Facts> batching_pays() {
  auto facts = std::make_shared<Facts>();
  facts->cost = [](std::size_t rows) { return microseconds(400 + 50 * rows); };
  return facts;
}

#define TEST_SIZES(lane, ...) \
  BOOST_TEST(sizes_of(lane) == (std::vector<std::size_t>{__VA_ARGS__}), boost::test_tools::per_element())

BOOST_AUTO_TEST_SUITE(lanes)

BOOST_AUTO_TEST_CASE(sizes_that_pay_are_used) {
  const Lane lane = lane_of(batching_pays());
  TEST_SIZES(lane, 1, 2, 4, 8);
  BOOST_TEST(lane.most() == 8U);
  BOOST_TEST(lane.length() == 16U);
  for (std::size_t i = 1; i < lane.sizes().size(); ++i) {
    const auto& more = lane.sizes()[i];
    const auto& less = lane.sizes()[i - 1];
    BOOST_TEST(more.us / static_cast<double>(more.rows) < less.us / static_cast<double>(less.rows));
  }
}

BOOST_AUTO_TEST_CASE(a_size_that_is_no_faster_a_row_is_not_used) {
  auto facts = std::make_shared<Facts>();
  facts->cost = [](std::size_t rows) {
    return microseconds(rows == 1 ? 450 : rows == 2 ? 600 : rows == 4 ? 1400 : 2000);
  };
  TEST_SIZES(lane_of(facts), 1, 2, 8);  // 4 cost 350 each, 2 only 300
}

BOOST_AUTO_TEST_CASE(a_size_with_other_bits_is_not_used) {
  auto facts = batching_pays();
  facts->inexact = {2, 8};  // in one row of the batch, by one bit
  TEST_SIZES(lane_of(facts), 1, 4);
}

BOOST_AUTO_TEST_CASE(a_size_that_does_not_compile_is_not_used) {
  auto facts = batching_pays();
  facts->compiles_not = {4};
  TEST_SIZES(lane_of(facts), 1, 2, 8);
}

BOOST_AUTO_TEST_CASE(an_engine_for_its_own_rows_only_is_used_with_them) {
  auto facts = batching_pays();
  facts->compiles_not = {1, 2, 8};
  const Lane lane = lane_of(facts, entry(16, 4), {2, 8});
  TEST_SIZES(lane, 4);
  BOOST_TEST(lane.step(1) == 0U);
  facts->compiles_not = {1, 2, 4, 8};
  BOOST_CHECK_THROW(lane_of(facts, entry(16, 4)), Error);
}

BOOST_AUTO_TEST_CASE(the_bundles_own_rows_are_tried_too) {
  TEST_SIZES(lane_of(batching_pays(), entry(16, 3), {2}), 1, 2, 3);
}

BOOST_AUTO_TEST_CASE(a_dynamic_engine_takes_rows_as_they_are) {
  const Lane lane = lane_of(batching_pays(), entry(64, 1, true));
  TEST_SIZES(lane, 1);
  BOOST_TEST(lane.padded(encoding(5)) == 5U);
  BOOST_TEST(lane_of(batching_pays()).padded(encoding(5)) == 16U);
}

BOOST_AUTO_TEST_CASE(rows_are_padded_only_where_that_is_cheaper) {
  const std::vector<Lane::Size> sizes{{1, nullptr, 100}, {2, nullptr, 150}, {4, nullptr, 250}, {8, nullptr, 400}};
  const auto steps = cheapest_steps(sizes, 8);
  // 3: 2 + 1 cost what 4 do; 5: 4 + 1 are cheaper than 8; 6: 4 + 2 cost what 8 do; 7: 8.
  const std::vector<std::size_t> wanted{0, 0, 1, 2, 2, 2, 3, 3, 3};
  for (std::size_t rows = 1; rows <= 8; ++rows) {
    BOOST_TEST_CONTEXT(rows) { BOOST_TEST(steps[rows] == wanted[rows]); }
  }
}

BOOST_AUTO_TEST_CASE(no_way_is_cheaper) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Lane::Size> sizes;
    for (const std::size_t rows : {1U, 2U, 3U, 5U, 8U}) {
      sizes.push_back({rows, nullptr, static_cast<double>(20 + random() % 100 + rows * (random() % 60))});
    }
    const auto steps = cheapest_steps(sizes, 8);
    const std::function<double(std::size_t)> best = [&](std::size_t rows) {
      double least = rows == 0 ? 0 : std::numeric_limits<double>::max();
      for (std::size_t i = 0; rows > 0 && i < sizes.size(); ++i) {
        least = std::min(least, sizes[i].us + best(rows - std::min(rows, sizes[i].rows)));
      }
      return least;
    };
    for (std::size_t rows = 1; rows <= 8; ++rows) {
      double us = 0;
      for (std::size_t left = rows; left > 0; left -= std::min(left, sizes[steps[left]].rows)) {
        us += sizes[steps[left]].us;
      }
      BOOST_TEST(us <= best(rows) * (1 + 1e-12));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_is_its_tokens_then_padding) {
  std::vector<std::int64_t> ids(8, -1), mask(8, -1), types(8, -1);
  const Inputs inputs{.ids = ids, .mask = mask, .types = types};
  Encoding tokens;
  tokens.ids = {2, 9, 3};
  tokens.types = {0, 1, 1};
  BOOST_TEST(fill(inputs, 1, 4, tokens, vocabulary));
  BOOST_TEST(ids == (std::vector<std::int64_t>{-1, -1, -1, -1, 2, 9, 3, 7}), boost::test_tools::per_element());
  BOOST_TEST(mask == (std::vector<std::int64_t>{-1, -1, -1, -1, 1, 1, 1, 0}), boost::test_tools::per_element());
  BOOST_TEST(types == (std::vector<std::int64_t>{-1, -1, -1, -1, 0, 1, 1, 0}), boost::test_tools::per_element());
  BOOST_TEST(fill({.ids = ids, .mask = {}, .types = {}}, 0, 4, tokens, vocabulary));  // a model without the others
}

BOOST_AUTO_TEST_CASE(what_is_no_row_of_the_model_reaches_no_table) {
  std::vector<std::int64_t> ids(4), mask(4), types(4);
  const Inputs inputs{.ids = ids, .mask = mask, .types = types};
  const auto of = [](std::vector<std::int32_t> of_ids, std::vector<std::uint8_t> of_types) {
    Encoding tokens;
    tokens.ids = std::move(of_ids);
    tokens.types = std::move(of_types);
    return tokens;
  };
  constexpr auto words = static_cast<std::int32_t>(kWords);
  BOOST_TEST(fill(inputs, 0, 4, of({words - 1}, {1}), vocabulary));
  for (const auto& bad : {of({}, {}), of({1, words}, {0, 0}), of({-1}, {0}), of({1}, {2}), of({1}, {}),
                          of({1, 1, 1, 1, 1}, {0, 0, 0, 0, 0})}) {
    std::fill(ids.begin(), ids.end(), 1'000'000);
    BOOST_TEST(!fill(inputs, 0, 4, bad, vocabulary));
    BOOST_TEST(ids == std::vector<std::int64_t>(4, 7), boost::test_tools::per_element());
    BOOST_TEST(mask == (std::vector<std::int64_t>{1, 0, 0, 0}), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(probes_ask_all_that_texts_can) {
  const auto rows = probes(9, 24, vocabulary);
  std::set<std::size_t> lengths;
  std::set<int> types;
  for (const auto& row : rows) {
    BOOST_TEST((row.size() >= 1 && row.size() <= 24 && row.types.size() == row.size()));
    lengths.insert(row.size());
    types.insert(row.types.begin(), row.types.end());
    for (const auto id : row.ids) {
      BOOST_TEST((id >= 0 && static_cast<std::size_t>(id) < kWords));
    }
  }
  BOOST_TEST(lengths.contains(24));
  BOOST_TEST(lengths.size() > 3);
  BOOST_TEST(types.size() == 2U);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
