// The walk through an ONNX file: every place of a tensor, and nothing that a stranger's bytes can do to it.
#include <boost/test/unit_test.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "bundle/onnx_weights.h"

namespace {

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}

std::string field(unsigned number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string field(unsigned number, std::uint64_t value) { return varint(number << 3) + varint(value); }

std::string entry(const std::string& key, const std::string& value) {
  return field(13, field(1, key) + field(2, value));
}
std::string tensor(const std::string& location) { return field(14, 1) + entry("location", location); }
std::string node(const std::string& attribute) { return field(5, attribute); }

std::string model(const std::string& graph, const std::string& more = {}) {
  return field(8, field(2, 17)) + field(7, graph) + more;
}

std::vector<std::string> found(const std::string& bytes) {
  std::vector<std::string> out;
  for (const auto& x : atb::external_weights({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()}))
    out.push_back(x.location + ":" + std::to_string(x.bytes));
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(weights_are_found_wherever_a_tensor_may_be) {
  const std::string inner = field(1, node(field(5, tensor("branch"))));
  const std::string graph = field(5, tensor("initializer")) +
                            field(15, field(1, tensor("values")) + field(2, tensor("indices"))) +
                            field(1, node(field(5, tensor("value")))) + field(1, node(field(10, tensor("several")))) +
                            field(1, node(field(6, inner))) + field(1, node(field(11, field(5, tensor("graphs"))))) +
                            field(1, node(field(22, field(1, tensor("sparse")))));
  const std::string function =
      field(25, field(7, node(field(5, tensor("function")))) + field(11, field(5, tensor("default"))));
  const std::vector<std::string> wanted{"branch:0",      "default:0", "function:0", "graphs:0", "indices:0",
                                        "initializer:0", "several:0", "sparse:0",   "value:0",  "values:0"};
  BOOST_TEST(found(model(graph, function)) == wanted, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(how_much_of_a_file_is_used_is_the_most_of_its_tensors) {
  const auto part = [](const char* offset, const char* length) {
    return field(5, tensor("w") + entry("offset", offset) + entry("length", length));
  };
  BOOST_TEST(found(model(part("0", "100") + part("4096", "8") + part("8", "8"))).at(0) == "w:4104");
}

BOOST_AUTO_TEST_CASE(weights_inside_need_no_file) {
  BOOST_TEST(found(model(field(5, field(9, std::string(1'000, 'w')) + field(14, 0)))).empty());
}

BOOST_AUTO_TEST_CASE(what_is_no_onnx_is_refused) {
  const std::string good = model(field(5, tensor("w")));
  std::string deep = field(5, tensor("w"));
  for (int i = 0; i < 20; ++i) deep = field(1, node(field(6, deep)));
  for (const std::string& bytes :
       {std::string(), std::string("\x0b"), good.substr(0, good.size() - 1), field(7, ""), field(8, ""), good + good,
        std::string(11, '\xff'), field(8, "") + field(7, 5), model(field(5, field(14, 1))),
        model(field(5, tensor("w") + entry("offset", "-1"))), model(field(5, tensor("w") + entry("length", "1x"))),
        model(field(5, tensor("w") + entry("offset", "18446744073709551615") + entry("length", "2"))),
        model(field(5, tensor("w") + entry("location", "other"))), model(field(5, tensor(std::string(5'000, 'x')))),
        model(deep), varint(0) + good})
    BOOST_CHECK_THROW(found(bytes), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(random_changes_never_do_more_than_be_refused) {
  std::mt19937 random(1);
  const std::string good =
      model(field(5, tensor("w") + entry("offset", "8")) + field(1, node(field(6, field(5, tensor("v"))))));
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (int i = 0; i < 3; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    try {
      found(bytes.substr(0, random() % (bytes.size() + 1)));
    } catch (const std::invalid_argument&) {
      continue;
    }
  }
}

BOOST_AUTO_TEST_CASE(names_stay_inside_in_one_spelling) {
  for (const char* name : {"model.onnx", "a/b/c.bin", ".hidden", "a b", "..a", "\xc3\xa9"})
    BOOST_TEST(atb::stays_inside(name), name);
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("../a"),
                                  std::string("a/../b"), std::string("/a"), std::string("a//b"), std::string("a/"),
                                  std::string("./a"), std::string("a/./b"), std::string("a\\b"), std::string("C:a"),
                                  std::string("\xc3\xa9:a"), std::string("a\0b", 3), std::string("manifest.json")})
    BOOST_TEST(!atb::stays_inside(name), name);
}

BOOST_AUTO_TEST_CASE(weights_lie_beside_their_model) {
  BOOST_TEST(atb::beside("model.onnx", "w.bin") == "w.bin");
  BOOST_TEST(atb::beside("a/model.onnx", "./b//w.bin") == "a/b/w.bin");
  BOOST_TEST(atb::beside("a/model.onnx", "../w.bin") == "a/../w.bin");
  BOOST_TEST(atb::beside("a/model.onnx", "/etc/hostname") == "/etc/hostname");
}
