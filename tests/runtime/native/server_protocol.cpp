#include <boost/test/unit_test.hpp>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/front.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/path.h"
#include "server/protocol_oip.h"
#include "server/protocol_tei.h"
#include "server_fakes.h"

namespace atb {
namespace {

using test::fake_model;

template <class Number>
std::string bytes_of(std::initializer_list<Number> values) {
  std::string raw;
  for (const Number value : values) {
    raw.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return raw;
}
std::string element(const std::string& text) { return bytes_of({static_cast<std::uint32_t>(text.size())}) + text; }

/// What a call was refused as.
template <class Call>
std::optional<Kind> refusal(Call call) {
  try {
    call();
    return std::nullopt;
  } catch (const Error& error) {
    return error.kind();
  }
}

struct Infer {
  std::string json{}, raw{};
  InputLimits limits{};
  std::shared_ptr<Model> model = shared();
  oip::Reply reply{};

  static std::shared_ptr<Model> shared() {
    static const auto made = fake_model(std::make_shared<test::Behaviour>());
    return made;
  }
  std::shared_ptr<Inference> work() {
    JsonReader reader(json);
    const auto request = oip::read_infer(reader, raw, limits, reply);
    return encode(model, request.inputs, limits);
  }
  std::optional<Kind> refused() {
    return refusal([this] { work(); });
  }
};

std::string with_input(const std::string& input) { return R"({"inputs":[)" + input + "]}"; }
std::string text_input(const std::string& shape, const std::string& data) {
  return with_input(R"({"name":"text","datatype":"BYTES","shape":)" + shape + R"(,"data":)" + data + "}");
}
std::string ids_input(const std::string& ids, const std::string& mask, const std::string& shape = "[1,4]") {
  const auto tensor = [&](const std::string& name, const std::string& data) {
    return R"({"name":")" + name + R"(","datatype":"INT64","shape":)" + shape + R"(,"data":)" + data + "}";
  };
  return with_input(tensor("input_ids", ids) + (mask.empty() ? "" : "," + tensor("attention_mask", mask)));
}

void run(Inference& work) {
  std::atomic<bool> done = false;
  work.start(Clock::now() + std::chrono::seconds(10), [&done](Inference&) { done = true; });
  while (!done) {
    std::this_thread::yield();
  }
  BOOST_REQUIRE(!work.refused());
}

BOOST_AUTO_TEST_SUITE(protocol)

BOOST_AUTO_TEST_CASE(every_kind_has_a_status) {
  for (std::size_t i = 0; i < kinds; ++i) {
    const Status& status = status_of(static_cast<Kind>(i));
    BOOST_TEST((status.http >= 400 && status.http < 600));
    BOOST_TEST((status.grpc >= 1 && status.grpc <= 16));
    BOOST_TEST(!status.name.empty());
  }
  BOOST_TEST(status_of(Kind::invalid).predict == 422U);
  BOOST_TEST(status_of(Kind::overloaded).http == 429U);
  BOOST_TEST(status_of(Kind::overloaded).retry);
}

BOOST_AUTO_TEST_CASE(shapes_that_no_request_holds) {
  using Shape = std::vector<std::int64_t>;
  BOOST_TEST(elements("x", Shape{3, 4}) == 12U);
  BOOST_TEST(elements("x", Shape{0}) == 0U);
  const auto kind = [](const Shape& shape) { return refusal([&] { elements("x", shape); }); };
  BOOST_CHECK(kind({-1}) == Kind::invalid);
  BOOST_CHECK(kind({1, 1, 1}) == Kind::invalid);
  for (const Shape& shape :
       {Shape{1LL << 62, 4}, Shape{1LL << 32, 1LL << 32}, Shape{INT64_MAX, INT64_MAX}, Shape{1 << 24, 2}}) {
    BOOST_CHECK(kind(shape) == Kind::too_large);
  }
}

BOOST_AUTO_TEST_CASE(binary_texts) {
  InputTensor tensor{.name = "text", .datatype = "BYTES", .shape = {3}};
  const std::string raw = element("ab") + element("") + element("c");
  read_raw(raw, tensor);
  BOOST_TEST(tensor.texts == (std::vector<std::string_view>{"ab", "", "c"}), boost::test_tools::per_element());
  for (const std::string& wrong :
       {std::string(), raw.substr(0, raw.size() - 1), raw + "x", element("ab") + element("c"), raw + element("d"),
        std::string("\xff\xff\xff\xff", 4) + raw, element("ab") + element("") + std::string("\x02\0\0\0c", 5)}) {
    InputTensor other{.name = "text", .datatype = "BYTES", .shape = {3}};
    BOOST_CHECK(refusal([&] { read_raw(wrong, other); }) == Kind::invalid);
  }
}

BOOST_AUTO_TEST_CASE(binary_numbers) {
  InputTensor tensor{.name = "input_ids", .datatype = "INT64", .shape = {1, 2}};
  read_raw(bytes_of<std::int64_t>({5, -7}), tensor);
  BOOST_TEST(tensor.numbers == (std::vector<std::int64_t>{5, -7}), boost::test_tools::per_element());
  for (const std::size_t size : {0, 8, 15, 17, 24}) {
    InputTensor other{.name = "input_ids", .datatype = "INT64", .shape = {1, 2}};
    BOOST_CHECK(refusal([&] { read_raw(std::string(size, '\0'), other); }) == Kind::invalid);
  }
  InputTensor other{.name = "input_ids", .datatype = "FP16", .shape = {1}};
  BOOST_CHECK(refusal([&] { read_raw("12", other); }) == Kind::invalid);
}

BOOST_AUTO_TEST_CASE(texts_in_every_form_are_the_same_tokens) {
  Infer flat{.json = text_input("[2]", R"(["ab c", "d"])")};
  Infer column{.json = text_input("[2,1]", R"([["ab c"], ["d"]])")};
  Infer binary{
      .json = with_input(R"({"name":"text","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":13}})"),
      .raw = element("ab c") + element("d")};
  Infer ids{.json = ids_input("[[2,4,31,6,3],[2,7,3,0,0]]", "[1,1,1,1,1,1,1,1,0,0]", "[2,5]")};
  const auto expected = flat.work();
  BOOST_TEST(expected->rows() == 2U);
  for (Infer* other : {&column, &binary, &ids}) {
    const auto work = other->work();
    BOOST_TEST_REQUIRE(work->rows() == 2U);
    for (std::size_t row = 0; row < 2; ++row) {
      BOOST_TEST(work->tokens(row).ids == expected->tokens(row).ids, boost::test_tools::per_element());
      BOOST_TEST(work->tokens(row).types == expected->tokens(row).types, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(pairs_have_two_segments) {
  Infer pair{.json = text_input("[1,2]", R"([["a", "b"]])")};
  const auto work = pair.work();
  BOOST_TEST(work->rows() == 1U);
  BOOST_TEST(work->tokens(0).ids == (std::vector<std::int32_t>{2, 4, 3, 5, 3}), boost::test_tools::per_element());
  BOOST_TEST(work->tokens(0).types == (std::vector<std::uint8_t>{0, 0, 0, 1, 1}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(what_a_model_does_not_take) {
  const std::pair<std::string, Kind> cases[] = {
      {"{}", Kind::invalid},
      {"[]", Kind::invalid},
      {"{", Kind::invalid},
      {R"({"inputs":[]})", Kind::invalid},
      {with_input("{}"), Kind::invalid},
      {text_input("[0]", "[]"), Kind::invalid},
      {text_input("[]", R"("a")"), Kind::invalid},
      {text_input("[]", R"(["a"])"), Kind::invalid},
      {text_input("[2]", R"(["a"])"), Kind::invalid},
      {text_input("[1]", R"(["a","b"])"), Kind::invalid},
      {text_input("[1]", "[1]"), Kind::invalid},
      {text_input("[1]", R"(["a",1])"), Kind::invalid},
      {text_input("[1,3]", R"(["a","b","c"])"), Kind::invalid},
      {text_input("[-1]", R"(["a"])"), Kind::invalid},
      {text_input("[4611686018427387904,2]", R"(["a"])"), Kind::too_large},
      {text_input("[1e0]", R"(["a"])"), Kind::invalid},
      {text_input("[1]", "[null]"), Kind::invalid},
      {with_input(R"({"name":"text","datatype":"INT64","shape":[1],"data":["a"]})"), Kind::invalid},
      {with_input(R"({"name":"words","datatype":"BYTES","shape":[1],"data":["a"]})"), Kind::invalid},
      {ids_input("[2,4,3,0]", "[1,1,0,1]"), Kind::invalid},  // a hole
      {ids_input("[2,4,3,0]", "[0,0,0,0]"), Kind::invalid},  // nothing left
      {ids_input("[2,4,3,0]", "[1,1,2,0]"), Kind::invalid},  // no mask
      {ids_input("[2,4,3,56]", ""), Kind::invalid},          // behind the vocabulary
      {ids_input("[2,4,3,-1]", ""), Kind::invalid},
      {ids_input("[2,4,3,4294967298]", ""), Kind::invalid},  // 2, were it cut to 32 bits
      {ids_input("[2,4,3]", ""), Kind::invalid},
      {ids_input("[2,4,3,3]", "", "[4]"), Kind::invalid},
      {ids_input("[]", "", "[1,0]"), Kind::invalid},
      {ids_input("[2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2]", "", "[1,17]"), Kind::invalid},  // longer than the model
      {R"({"inputs":[],"outputs":[{"name":"tokens"}]})", Kind::invalid},
      {R"({"inputs":[],"parameters":{"timeout":-1}})", Kind::invalid},
      {R"({"inputs":[{"name":"text","parameters":{"binary_data_size":-1}}]})", Kind::invalid},
      {R"({"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"parameters":{"shared_memory_region":"a"}}]})",
       Kind::invalid},
  };
  for (const auto& [json, kind] : cases) {
    Infer request{.json = json};
    BOOST_TEST((request.refused() == kind), json);
  }
  const std::string text = R"({"name":"text","datatype":"BYTES","shape":[1],"data":["a"]})";
  Infer twice{.json = with_input(text + "," + text)};
  BOOST_CHECK(twice.refused() == Kind::invalid);
  Infer left{.json = text_input("[1]", R"(["a"])"), .raw = "x"};
  BOOST_CHECK(left.refused() == Kind::invalid);
  Infer missing{
      .json = with_input(R"({"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}})"),
      .raw = element("")};
  BOOST_CHECK(missing.refused() == Kind::invalid);
  Infer no_text{
      .json = with_input(R"({"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}})"),
      .raw = element("\xff\xfe")};
  BOOST_CHECK(no_text.refused() == Kind::invalid);
}

BOOST_AUTO_TEST_CASE(limits_of_rows_and_texts) {
  const InputLimits limits{.rows = 2, .text_bytes = 4};
  const auto kind = [&](const std::string& json) { return Infer{.json = json, .limits = limits}.refused(); };
  BOOST_CHECK(!kind(text_input("[2]", R"(["abcd","a"])")));
  BOOST_CHECK(kind(text_input("[1]", R"(["abcde"])")) == Kind::too_large);
  BOOST_CHECK(kind(text_input("[1,2]", R"(["abc","de"])")) == Kind::too_large);
  BOOST_CHECK(kind(text_input("[3]", R"(["a","b","c"])")) == Kind::too_large);
  BOOST_CHECK(kind(text_input("[9]", R"(["a","b","c","a","b","c","a","b","c"])")) == Kind::too_large);
  BOOST_CHECK(kind(ids_input("[2,3,2,3,2,3]", "", "[3,2]")) == Kind::too_large);
}

BOOST_AUTO_TEST_CASE(an_answer_is_the_same_in_json_and_in_binary) {
  const std::string body = R"("inputs":[{"name":"text","datatype":"BYTES","shape":[2],"data":["ab","z"]}])";
  Infer json{.json = "{" + body + R"(,"id":"q\"1"})"};
  Infer binary{.json = "{" + body + R"(,"parameters":{"binary_data_output":true}})"};
  json.reply.model = binary.reply.model = "m";
  json.reply.version = binary.reply.version = "3";
  const auto a = json.work(), b = binary.work();
  run(*a);
  run(*b);
  std::string text, mixed;
  BOOST_CHECK(!oip::write_infer(*a, json.reply, text));
  const auto size = oip::write_infer(*b, binary.reply, mixed);
  BOOST_REQUIRE(size);
  const auto one = nlohmann::json::parse(text);
  const auto head = nlohmann::json::parse(mixed.substr(0, *size));
  BOOST_TEST(one["id"] == "q\"1");
  BOOST_TEST(one["model_name"] == "m");
  BOOST_TEST(one["model_version"] == "3");
  BOOST_TEST(!head.contains("id"));
  std::string_view rest = std::string_view(mixed).substr(*size);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& plain = one["outputs"][i];
    const auto& packed = head["outputs"][i];
    BOOST_TEST(plain["name"] == packed["name"]);
    BOOST_TEST(plain["shape"] == packed["shape"]);
    const std::string_view raw = rest.substr(0, packed["parameters"]["binary_data_size"].get<std::size_t>());
    rest.remove_prefix(raw.size());
    if (plain["datatype"] == "FP32") {
      std::vector<float> values(raw.size() / sizeof(float));
      std::memcpy(values.data(), raw.data(), raw.size());
      BOOST_TEST(plain["data"].get<std::vector<float>>() == values, boost::test_tools::per_element());
    } else {
      std::string expected;
      for (const auto& label : plain["data"]) {
        expected += element(label.get<std::string>());
      }
      BOOST_TEST(raw == expected);
    }
  }
  BOOST_TEST(rest.empty());
  const std::int64_t ids[] = {2, 4, 31, 3};
  const auto logits = test::logits_of(ids, 4);
  BOOST_TEST(std::vector<float>(a->logits(0).begin(), a->logits(0).end()) == logits, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(only_the_outputs_that_were_asked_for) {
  Infer request{.json = R"({"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}],"outputs":[)"
                        R"({"name":"score","parameters":{"binary_data":true}},{"name":"logits"}]})"};
  const auto work = request.work();
  run(*work);
  std::string body;
  const auto size = oip::write_infer(*work, request.reply, body);
  BOOST_REQUIRE(size);
  const auto head = nlohmann::json::parse(body.substr(0, *size));
  BOOST_TEST(head["outputs"].size() == 2U);
  BOOST_TEST(head["outputs"][0]["name"] == "score");
  BOOST_TEST(head["outputs"][1].contains("data"));
  BOOST_TEST(body.size() == *size + sizeof(float));
}

BOOST_AUTO_TEST_CASE(predict_reads_texts_pairs_and_batches) {
  const auto read = [](const std::string& json) {
    JsonReader reader(json);
    auto request = tei::read_predict(reader, {});
    std::string shown = request.batch ? "batch" : "one";
    for (const Text& text : request.texts) {
      ((shown += "|") += text.first) += text.pair ? "+" + std::string(text.second) : "";
    }
    return shown;
  };
  BOOST_TEST(read(R"({"inputs":"a"})") == "one|a");
  BOOST_TEST(read(R"({"inputs":["a"]})") == "one|a");
  BOOST_TEST(read(R"({"inputs":["a","b"]})") == "one|a+b");
  BOOST_TEST(read(R"({"inputs":[["a"]]})") == "batch|a");
  BOOST_TEST(read(R"({"inputs":[["a"],["b","c"]]})") == "batch|a|b+c");
  BOOST_TEST(read(R"({"truncate":true,"inputs":"","raw_scores":false,"more":[{}]})") == "one|");
  for (const char* json : {"{}", R"({"inputs":1})", R"({"inputs":null})", R"({"inputs":["a","b","c"]})",
                           R"({"inputs":[[]]})", R"({"inputs":["a",["b"]]})", R"({"inputs":[["a"],"b"]})",
                           R"({"inputs":[["a","b","c"]]})", R"({"inputs":[[["a"]]]})", R"({"inputs":"a","truncate":1})",
                           R"({"inputs":"a","truncation_direction":"left"})", R"({"inputs":{"a":1}})"}) {
    BOOST_CHECK_MESSAGE(refusal([&] { read(json); }) == Kind::invalid, json);
  }
}

BOOST_AUTO_TEST_CASE(predict_answers_sorted) {
  const auto model = Infer::shared();
  const std::vector<Text> texts{{"ab", {}, false}, {"z", "y", true}};
  const auto work = encode(model, texts, {});
  run(*work);
  std::string body;
  tei::write_predict(*work, true, false, body);
  const auto answer = nlohmann::json::parse(body);
  BOOST_TEST(answer.size() == 2U);
  for (const auto& row : answer) {
    BOOST_TEST(row.size() == test::fake_labels);
    double sum = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      sum += row[i]["score"].get<double>();
      BOOST_TEST((i == 0 || row[i - 1]["score"].get<double>() >= row[i]["score"].get<double>()));
    }
    BOOST_TEST(std::abs(sum - 1) < 1e-9);
  }
  body.clear();
  tei::write_predict(*work, true, true, body);
  const auto raw = nlohmann::json::parse(body);
  BOOST_TEST(raw[0][0]["score"].get<float>() == *std::max_element(work->logits(0).begin(), work->logits(0).end()));
}

BOOST_AUTO_TEST_CASE(texts_that_are_too_long_are_cut_or_refused) {
  const auto model = Infer::shared();
  const std::vector<Text> texts{{"a a a a a a a a a a a a a a a a a a a a", {}, false}};
  BOOST_TEST(encode(model, texts, {})->tokens(0).size() == model->max_length());
  BOOST_CHECK(refusal([&] { encode(model, texts, {}, false); }) == Kind::too_large);
}

BOOST_AUTO_TEST_CASE(paths) {
  Path path;
  BOOST_TEST(path.read("/v2/models/a%20b/infer?model=x&y=1"));
  BOOST_TEST(path.size == 4U);
  BOOST_TEST(path[2] == "a b");
  BOOST_TEST(path[4] == "");
  BOOST_TEST(path.model == "x");
  BOOST_TEST(path.read("/"));
  BOOST_TEST(path.size == 0U);
  BOOST_TEST(path.read("/?text=a/b&model=m%2Fn"));
  BOOST_TEST(path.size == 0U);
  BOOST_TEST(path.model == "m/n");
  for (const char* wrong : {"", "*", "a", "http://a/", "/%", "/%1", "/%zz", "/1/2/3/4/5/6/7/8/9"}) {
    BOOST_TEST(!path.read(wrong), wrong);
  }
}

BOOST_AUTO_TEST_CASE(secrets) {
  BOOST_TEST(same_secret("abc", "abc"));
  for (const char* wrong : {"", "ab", "abd", "abcabc", "abca"}) {
    BOOST_TEST(!same_secret(wrong, "abc"));
  }
  BOOST_TEST(!same_secret("", ""));
}

BOOST_AUTO_TEST_CASE(histograms_count_up_to_their_bounds) {
  static constexpr double bounds[] = {50, 100};
  Histogram histogram(bounds);
  for (const double us : {10.0, 50.0, 51.0, 1000.0}) {
    histogram.observe(us);
  }
  std::string text;
  histogram.write(text, "h_seconds", "model=\"m\"", 1e-6);
  BOOST_TEST(text ==
             "h_seconds_bucket{model=\"m\",le=\"5e-05\"} 2\nh_seconds_bucket{model=\"m\",le=\"1e-04\"} 3\n"
             "h_seconds_bucket{model=\"m\",le=\"+Inf\"} 4\nh_seconds_sum{model=\"m\"} "
             "0.001111\nh_seconds_count{model=\"m\"} 4\n");
}

BOOST_AUTO_TEST_CASE(command_lines) {
  const auto line = read_command_line(
      {"--model", "a=x/y", "runs/b/", "--port=0", "--rows", "7", "--manage", "--deadline-ms", "20", "--ui"});
  BOOST_TEST(line.models.size() == 2U);
  BOOST_TEST(line.models[0].first == "a");
  BOOST_TEST(line.models[1].first == "b");
  BOOST_TEST(line.server.port == 0);
  BOOST_TEST(line.server.rows == 7U);
  BOOST_TEST(line.server.manage);
  BOOST_TEST(line.server.page);
  BOOST_CHECK(line.server.deadline == std::chrono::milliseconds(20));
  BOOST_TEST(line.server.host == "127.0.0.1");
  BOOST_TEST(read_command_line({"b", "--name", "n"}).models[0].first == "n");
  using Arguments = std::vector<std::string>;
  for (const Arguments& wrong :
       {Arguments{}, Arguments{"b", "--port"}, Arguments{"b", "--port", "x"}, Arguments{"b", "--port", "65536"},
        Arguments{"b", "--rows", "-1"}, Arguments{"b", "--nothing"}, Arguments{"b", "--manage=1"},
        Arguments{"--model", "=x"}, Arguments{"b", "--key", "k"}, Arguments{"b", "--token-file", "/dev/null"}}) {
    BOOST_CHECK(refusal([&] { read_command_line(wrong); }) == Kind::invalid);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb
