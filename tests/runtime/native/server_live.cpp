// The whole server over sockets, with an engine that does what a test says.
#include <sys/socket.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#ifdef ATB_WITH_TLS
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <boost/asio/ssl.hpp>
#endif

#include "atb/server.h"
#include "scratch.h"
#include "server_fakes.h"

namespace atb {
namespace {

namespace http = boost::beast::http;
using boost::asio::ip::tcp;
using test::Behaviour;
using namespace std::chrono_literals;

using Response = http::response<http::string_body>;

class Client {
 public:
  explicit Client(std::uint16_t port) : socket_(io_) {
    socket_.connect({boost::asio::ip::address_v4::loopback(), port});
    const timeval patience{10, 0};  // a server that never answers fails the test instead of holding it
    setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  void send(std::string_view text) { boost::asio::write(socket_, boost::asio::buffer(text)); }
  /// The next response; none where the connection ended instead.
  std::optional<Response> receive(bool of_head = false) {
    http::response_parser<http::string_body> parser;
    parser.skip(of_head);
    boost::system::error_code ec;
    http::read(socket_, buffer_, parser, ec);
    return ec ? std::nullopt : std::optional(parser.release());
  }
  Response ask(std::string_view text) {
    send(text);
    auto response = receive();
    BOOST_REQUIRE(response);
    return *response;
  }
  bool ended() {  // all that comes is the end
    char byte = 0;
    boost::system::error_code ec;
    boost::asio::read(socket_, boost::asio::buffer(&byte, 1), ec);
    return ec == boost::asio::error::eof || ec == boost::asio::error::connection_reset;
  }
  tcp::socket& socket() { return socket_; }

 private:
  boost::asio::io_context io_;
  tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
};

std::string get(const std::string& target, const std::string& fields = "") {
  return "GET " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n";
}
std::string post(const std::string& target, const std::string& body, const std::string& fields = "") {
  return "POST " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}
std::string predict(const std::string& text, const std::string& fields = "") {
  return post("/predict", R"({"inputs":")" + text + "\"}", fields);
}
nlohmann::json parsed(const Response& response) { return nlohmann::json::parse(response.body()); }

struct Running {
  test::Scratch scratch;
  std::shared_ptr<Behaviour> behaviour = std::make_shared<Behaviour>();
  Registry registry;
  std::optional<Server> server;
  std::thread thread;
  bool drained = false;

  explicit Running(ServerOptions options = {}, test::FakeOptions how = {})
      : registry([b = behaviour, how](const auto&, const auto&) { return fake_model(b, how); }) {
    std::ofstream(scratch.path() / "manifest.json") << "{}";
    registry.add("m", scratch.path(), {});
    registry.load("m");
    options.port = 0;
    server.emplace(registry, options);
    thread = std::thread([this] { drained = server->run(); });
  }
  ~Running() { stop(); }
  void stop() {
    behaviour->held = false;
    if (thread.joinable()) {
      server->stop();
      thread.join();
    }
  }
  [[nodiscard]] std::uint16_t port() const { return server->port(); }
  [[nodiscard]] Response ask(const std::string& text) const { return Client(port()).ask(text); }
};

template <class Condition>
bool soon(Condition condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

BOOST_AUTO_TEST_SUITE(live)

BOOST_AUTO_TEST_CASE(answers_what_the_engine_answers) {
  Running running;
  Client client(running.port());
  const auto model = running.registry.find("m");
  for (const std::string text : {"ab", "hello world", "", "a b c d e f g h i j k l m n o p q r s t"}) {
    const std::string data =
        R"({"id":"7","inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":[")" + text + "\"]}]}";
    const auto response = client.ask(post("/v2/models/m/infer", data));
    BOOST_TEST(response.result_int() == 200U);
    BOOST_TEST(response.count("Server-Timing") == 1U);
    const auto answer = parsed(response);
    Encoding tokens;
    model->tokenizer().encode(text, model->max_length(), tokens);
    const auto expected = model->logits(tokens);
    BOOST_TEST(answer["id"] == "7");
    BOOST_TEST(answer["model_version"] == "1");
    BOOST_TEST(answer["outputs"][0]["data"].get<std::vector<float>>() == expected, boost::test_tools::per_element());
    const auto scores = parsed(client.ask(predict(text)));
    BOOST_TEST(scores[0]["label"] == answer["outputs"][1]["data"][0]);
  }
}

BOOST_AUTO_TEST_CASE(tells_what_it_is) {
  Running running;
  Client client(running.port());
  const auto body = [&](const std::string& target) {
    const auto response = client.ask(get(target));
    BOOST_TEST(response.result_int() == 200U, target);
    return parsed(response);
  };
  BOOST_TEST(body("/health")["ready"] == true);
  BOOST_TEST(body("/v2/health/live")["live"] == true);
  BOOST_TEST(body("/v2/health/ready")["ready"] == true);
  BOOST_TEST(body("/v2")["extensions"].size() == 4U);
  BOOST_TEST(body("/v2/models/m")["inputs"].size() == 4U);
  BOOST_TEST(body("/v2/models/m/versions/1")["versions"][0] == "1");
  BOOST_TEST(body("/v2/models/m/config")["output"].size() == 3U);
  BOOST_TEST(body("/v2/models/m/ready")["ready"] == true);
  BOOST_TEST(body("/info")["model_type"]["classifier"]["id2label"]["2"] == "good");
  client.ask(predict("a"));
  BOOST_TEST(body("/v2/models/m/stats")["model_stats"][0]["inference_stats"]["success"]["count"] == 1);
  BOOST_TEST(body("/v2/models/stats")["model_stats"].size() == 1U);
  BOOST_TEST(parsed(client.ask(post("/v2/repository/index", "")))[0]["state"] == "READY");
}

BOOST_AUTO_TEST_CASE(metrics_count_what_happened) {
  Running running;
  Client client(running.port());
  client.ask(predict("a"));
  client.ask(post("/predict", "{}"));
  for (int i = 0; i < 50; ++i) {
    client.ask(get("/v2/models/unknown-" + std::to_string(i)));
  }
  const std::string text = client.ask(get("/metrics")).body();
  const auto has = [&](const std::string& line) { return text.find(line + "\n") != std::string::npos; };
  BOOST_TEST(has("atb_requests_total{model=\"m\",outcome=\"answered\"} 1"));
  BOOST_TEST(has("atb_requests_total{model=\"m\",outcome=\"invalid\"} 1"));
  BOOST_TEST(has("atb_refused_total{reason=\"not_found\"} 50"));
  BOOST_TEST(has("atb_request_seconds_count{model=\"m\"} 1"));
  BOOST_TEST(has("atb_http_responses_total{code=\"404\"} 50"));
  BOOST_TEST(has("atb_models_ready 1"));
  BOOST_TEST(has("atb_connections 1"));
  BOOST_TEST(text.find("unknown-") == std::string::npos);  // no series of a client's making
}

BOOST_AUTO_TEST_CASE(errors_of_requests) {
  Running running;
  Client client(running.port());
  const std::tuple<std::string, unsigned, std::string> cases[] = {
      {get("/nothing"), 404, "not_found"},
      {get("/"), 404, "not_found"},
      {get("/v2/models/x"), 404, "not_found"},
      {get("/v2/models/m/versions/9"), 404, "not_found"},
      {get("/v2/models/m/nothing"), 404, "not_found"},
      {post("/v2/models/x/infer", "{}"), 404, "not_found"},
      {get("/v2/models/m/infer"), 405, "invalid"},
      {get("/predict"), 405, "invalid"},
      {post("/health", ""), 405, "invalid"},
      {post("/v2/models/m/infer", "{"), 400, "invalid"},
      {post("/v2/models/m/infer", "\xff"), 400, "invalid"},
      {post("/v2/models/m/infer", "{}"), 400, "invalid"},
      {post("/v2/models/m/infer", "{}", "Inference-Header-Content-Length: 3\r\n"), 400, "invalid"},
      {post("/predict", "{\"inputs\":\"\xff\"}"), 400, "invalid"},
      {post("/predict", "{"), 400, "invalid"},
      {post("/predict", "{}"), 422, "invalid"},
      {post("/predict", R"({"inputs":"a a a a a a a a a a a a a a a a a","truncate":false})"), 413, "too_large"},
      {post("/predict?model=x", R"({"inputs":"a"})"), 404, "not_found"},
      {predict("a", "Origin: http://elsewhere\r\n"), 403, "forbidden"},
      {predict("a", "Origin: null\r\n"), 403, "forbidden"},
      {predict("a", "Content-Encoding: gzip\r\n"), 415, "invalid"},
      {post("/v2/repository/models/m/unload", ""), 403, "forbidden"},
  };
  for (const auto& [request, status, name] : cases) {
    const auto response = client.ask(request);
    BOOST_TEST(response.result_int() == status, request);
    BOOST_TEST(parsed(response)["error_type"] == name, request);
    BOOST_TEST(!parsed(response)["error"].get<std::string>().empty());
  }
  BOOST_TEST(client.ask(predict("a", "Origin: http://a\r\n")).result_int() ==
             200U);  // on the same connection, and of the same site
}

BOOST_AUTO_TEST_CASE(what_is_no_http_ends_the_connection) {
  Running running(ServerOptions{.header_bytes = 1024, .body_bytes = 2048});
  const std::pair<std::string, unsigned> cases[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\n\r\n", 505},
      {"GET /health HTTP/1.1\r\n\r\n", 400},  // no host
      {"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {get("/health", "X: " + std::string(2000, 'x') + "\r\n"), 431},
      {post("/predict", std::string(4000, ' ')), 413},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {post("/v2/models/m/infer", "{}", "Inference-Header-Content-Length: -2\r\n"), 400},
      {post("/v2/models/m/infer", "{}", "Inference-Header-Content-Length: 1\r\nInference-Header-Content-Length: 2\r\n"),
       400},
  };
  for (const auto& [request, status] : cases) {
    Client client(running.port());
    const auto response = client.ask(request);
    BOOST_TEST(response.result_int() == status, request.substr(0, 100));
    BOOST_TEST(!response.keep_alive());
    BOOST_TEST(client.ended());
  }
  BOOST_TEST(running.ask(get("/health")).result_int() == 200U);
}

BOOST_AUTO_TEST_CASE(pipelined_requests_are_answered_in_order) {
  Running running;
  Client client(running.port());
  std::string many;
  for (int i = 0; i < 200; ++i) {
    many += i % 3 == 0 ? get("/v2/models/m/ready")
                       : post("/v2/models/m/infer",
                              R"({"id":")" + std::to_string(i) +
                                  R"(","inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]})");
  }
  client.send(many);
  for (int i = 0; i < 200; ++i) {
    const auto response = client.receive();
    BOOST_REQUIRE(response);
    const auto answer = parsed(*response);
    BOOST_TEST_REQUIRE((i % 3 == 0 ? answer["ready"] == true : answer["id"] == std::to_string(i)));
  }
}

BOOST_AUTO_TEST_CASE(takes_requests_in_pieces_chunks_and_after_asking) {
  Running running;
  Client client(running.port());
  for (const char byte : predict("ab")) {
    client.send({&byte, 1});
  }
  BOOST_TEST(client.receive()->result_int() == 200U);
  BOOST_TEST(client
                 .ask("POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
                      "chunked\r\n\r\n4\r\n{\"in\r\nb\r\nputs\":\"ab\"}\r\n0\r\nHost: b\r\n\r\n")
                 .result_int() == 200U);
  client.send("POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n");
  BOOST_TEST(client.receive()->result_int() == 100U);
  BOOST_TEST(client.ask(R"({"inputs":"a"})").result_int() == 200U);
  client.send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto head = client.receive(true);
  BOOST_REQUIRE(head);
  BOOST_TEST((*head)["Content-Length"] == "14");
  BOOST_TEST(client.ask(get("/health")).keep_alive());
  BOOST_TEST(!client.ask(get("/health", "Connection: close\r\n")).keep_alive());
  BOOST_TEST(client.ended());
  Client old(running.port());
  BOOST_TEST(old.ask("GET /health HTTP/1.0\r\n\r\n").result_int() == 200U);
  BOOST_TEST(old.ended());
}

BOOST_AUTO_TEST_CASE(large_requests_are_read_elsewhere) {
  Running running;
  Client client(running.port());
  std::string texts;
  for (int i = 0; i < 250; ++i) {
    texts += (i > 0 ? ",[\"" : "[\"") + std::string(400, static_cast<char>('a' + i % 26)) + "\"]";
  }
  const auto answer = client.ask(post("/predict", R"({"inputs":[)" + texts + "]}"));
  BOOST_TEST(answer.result_int() == 200U);
  BOOST_TEST(parsed(answer).size() == 250U);
  BOOST_TEST(client.ask(post("/predict", R"({"inputs":[)" + texts + ",1]}")).result_int() == 422U);
  BOOST_TEST(client.ask(post("/predict", "[" + texts)).result_int() == 422U);
}

BOOST_AUTO_TEST_CASE(slow_and_idle_clients_are_let_go) {
  Running running(ServerOptions{.idle = 300ms, .receive = 200ms});
  Client slow(running.port()), idle(running.port()), body(running.port());
  slow.send("GET /hea");
  body.send("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
  BOOST_TEST(slow.receive()->result_int() == 408U);
  BOOST_TEST(slow.ended());
  BOOST_TEST(body.receive()->result_int() == 408U);
  BOOST_TEST(idle.ended());
}

BOOST_AUTO_TEST_CASE(connections_over_the_limit_are_turned_away) {
  Running running(ServerOptions{.connections = 2});
  Client first(running.port());
  first.ask(get("/health"));
  {
    Client second(running.port());
    second.ask(get("/health"));
    Client third(running.port());
    BOOST_TEST(third.receive()->result_int() == 503U);
  }
  BOOST_TEST(soon([&] { return Client(running.port()).ask(get("/health")).result_int() == 200U; }));
}

BOOST_AUTO_TEST_CASE(a_token_is_asked_for) {
  Running running(ServerOptions{.token = "secret"});
  Client client(running.port());
  BOOST_TEST(client.ask(predict("a")).result_int() == 401U);
  BOOST_TEST(client.ask(predict("a", "Authorization: Bearer secreT\r\n")).result_int() == 401U);
  BOOST_TEST(client.ask(predict("a", "Authorization: secret\r\n")).result_int() == 401U);
  BOOST_TEST(client.ask(get("/metrics")).result_int() == 401U);
  BOOST_TEST(client.ask(get("/v2/health/ready")).result_int() == 200U);
  BOOST_TEST(client.ask(predict("a", "Authorization: Bearer secret\r\n")).result_int() == 200U);
  // Nobody without it sends us a body.
  client.send("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n{");
  BOOST_TEST(client.receive()->result_int() == 401U);
  BOOST_TEST(client.ended());
}

BOOST_AUTO_TEST_CASE(overload_is_refused_at_once) {
  Running running({.deadline = 5000ms}, {.queue = 4});
  running.behaviour->held = true;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 12; ++i) {
    clients.push_back(std::make_unique<Client>(running.port()));
    clients.back()->send(predict("a"));
  }
  std::size_t refused = 0;
  BOOST_TEST(soon([&] {
    refused = 0;
    std::istringstream lines(Client(running.port()).ask(get("/metrics")).body());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("atb_requests_total{model=\"m\",outcome=\"overloaded\"} ")) {
        refused = std::stoul(line.substr(line.rfind(' ')));
      }
    }
    return refused >= 7;
  }));
  running.behaviour->held = false;
  std::size_t answered = 0, turned_away = 0;
  for (const auto& client : clients) {
    const auto response = client->receive();
    BOOST_REQUIRE(response);
    answered += response->result_int() == 200U ? 1 : 0;
    if (response->result_int() == 429U) {
      ++turned_away;
      BOOST_TEST(std::stoul(std::string((*response)["Retry-After"])) >= 1U);
    }
  }
  BOOST_TEST(turned_away == refused);
  BOOST_TEST(answered + turned_away == clients.size());
}

BOOST_AUTO_TEST_CASE(no_answer_comes_after_its_deadline) {
  Running running({.deadline = 50ms});
  running.behaviour->held = true;
  Client client(running.port()), impatient(running.port());
  client.send(predict("a"));
  BOOST_TEST(client.receive()->result_int() == 504U);
  const std::string body =
      R"({"parameters":{"timeout":20000},"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]})";
  BOOST_TEST(impatient.ask(post("/v2/models/m/infer", body)).result_int() == 504U);
  BOOST_TEST(impatient.ask(predict("a", "X-Request-Timeout-Ms: 5\r\n")).result_int() == 504U);
  running.behaviour->held = false;
  BOOST_TEST(soon([&] { return client.ask(predict("a")).result_int() == 200U; }));  // the connection lives on
}

BOOST_AUTO_TEST_CASE(work_of_a_client_that_has_gone_is_not_done) {
  Running running({.deadline = 60'000ms});
  const auto model = running.registry.find("m");
  running.behaviour->held = true;
  Client holder(running.port());
  holder.send(predict("a"));
  BOOST_REQUIRE(soon([&] { return model->batcher().counts().running == 1; }));
  {
    Client gone(running.port());
    gone.send(predict("b"));
    BOOST_REQUIRE(soon([&] { return model->batcher().counts().waiting == 1; }));
  }
  std::this_thread::sleep_for(100ms);
  running.behaviour->held = false;
  BOOST_TEST(holder.receive()->result_int() == 200U);
  BOOST_TEST(soon([&] { return model->batcher().counts().cancelled == 1; }));
}

BOOST_AUTO_TEST_CASE(stopping_answers_what_was_accepted) {
  Running running({.deadline = 60'000ms, .drain = 8'000ms});
  running.behaviour->held = true;
  Client working(running.port()), idle(running.port());
  idle.ask(get("/health"));
  working.send(predict("a"));
  BOOST_REQUIRE(soon([&] { return running.registry.find("m")->batcher().counts().running == 1; }));
  running.server->stop();
  BOOST_TEST(soon([&] { return idle.ask(get("/v2/health/live")).keep_alive() == false; }));
  running.behaviour->held = false;
  const auto answer = working.receive();
  BOOST_REQUIRE(answer);
  BOOST_TEST(answer->result_int() == 200U);
  BOOST_TEST(!answer->keep_alive());
  const std::uint16_t port = running.port();
  working.socket().close();
  idle.socket().close();
  running.thread.join();
  BOOST_TEST(running.drained);
  BOOST_CHECK_THROW(Client{port}, boost::system::system_error);
}

BOOST_AUTO_TEST_CASE(stopping_has_an_end) {
  Running running({.deadline = 60'000ms, .drain = 200ms});
  running.behaviour->held = true;
  Client working(running.port());
  working.send(predict("a"));
  BOOST_REQUIRE(soon([&] { return running.registry.find("m")->batcher().counts().running == 1; }));
  running.server->stop();
  BOOST_TEST(working.ended());
  running.thread.join();
  BOOST_TEST(!running.drained);
  running.behaviour->held = false;
}

BOOST_AUTO_TEST_CASE(models_load_and_unload_where_that_is_allowed) {
  Running running(ServerOptions{.manage = true});
  Client client(running.port());
  const auto model = std::weak_ptr(running.registry.find("m"));
  BOOST_TEST(client.ask(predict("a")).result_int() == 200U);
  BOOST_TEST(client.ask(post("/v2/repository/models/m/load", R"({"parameters":{"config":"{}"}})")).result_int() ==
             400U);
  BOOST_TEST(client.ask(post("/v2/repository/models/x/load", "")).result_int() == 404U);
  BOOST_TEST(client.ask(post("/v2/repository/models/m/load", "{}")).result_int() == 200U);
  BOOST_TEST(soon([&] { return model.expired(); }));  // an idle connection holds no model
  BOOST_TEST(client.ask(predict("a")).result_int() == 200U);
  BOOST_TEST(client.ask(post("/v2/repository/models/m/unload", "")).result_int() == 200U);
  const auto response = client.ask(predict("a"));
  BOOST_TEST((response.result_int() == 404U || response.result_int() == 503U));
  BOOST_TEST(client.ask(post("/v2/repository/models/m/load", "")).result_int() == 200U);
  BOOST_TEST(client.ask(predict("a")).result_int() == 200U);
}

BOOST_AUTO_TEST_CASE(the_access_log_has_a_line_a_request_and_no_text) {
  const test::Scratch scratch;
  const std::string path = (scratch.path() / "log").string();
  {
    Running running(ServerOptions{.access_log = path});
    Client client(running.port());
    client.ask(predict("quiet"));
    client.ask(get("/no%22thing\"\xff"));
    running.stop();
  }
  std::ifstream file(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) {
    BOOST_TEST(line.find("quiet") == std::string::npos);
    lines.push_back(nlohmann::json::parse(line));
  }
  BOOST_TEST_REQUIRE(lines.size() == 2U);
  BOOST_TEST(lines[0]["status"] == 200);
  BOOST_TEST(lines[0]["model"] == "m");
  BOOST_TEST(lines[0]["total_us"].get<double>() > 0);
  BOOST_TEST((lines[1]["status"] == 404 || lines[1]["status"] == 400));
}

BOOST_AUTO_TEST_CASE(the_page_is_there_on_request) {
  Running running(ServerOptions{.page = true});
  const auto one = running.ask(get("/?text=a")), two = running.ask(get("/"));
  BOOST_TEST(one.result_int() == 200U);
  BOOST_TEST(one.body().find("NONCE") == std::string::npos);
  BOOST_TEST(one.body().find("http://") == one.body().find("http://www.w3.org/2000/svg"));  // nothing from elsewhere
  const std::string policy(one["Content-Security-Policy"]);
  BOOST_TEST(policy.find("default-src 'none'") != std::string::npos);
  BOOST_TEST(policy != std::string(two["Content-Security-Policy"]));
}

#ifdef ATB_WITH_TLS

/// A certificate that signs itself, and its key, in files of these names.
void make_certificate(const std::string& certificate, const std::string& key) {
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> pair(EVP_RSA_gen(2048), EVP_PKEY_free);
  const std::unique_ptr<X509, decltype(&X509_free)> made(X509_new(), X509_free);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
  X509_set_pubkey(made.get(), pair.get());
  X509_sign(made.get(), pair.get(), EVP_sha256());
  const auto file = [](const std::string& path) {
    return std::unique_ptr<FILE, int (*)(FILE*)>(std::fopen(path.c_str(), "w"), &std::fclose);
  };
  PEM_write_X509(file(certificate).get(), made.get());
  PEM_write_PrivateKey(file(key).get(), pair.get(), nullptr, nullptr, 0, nullptr, nullptr);
}

BOOST_AUTO_TEST_CASE(tls_carries_the_same) {
  namespace ssl = boost::asio::ssl;
  const test::Scratch scratch;
  const std::string certificate = scratch.path() / "certificate.pem", key = scratch.path() / "key.pem";
  make_certificate(certificate, key);
  {
    Running running(ServerOptions{.receive = 300ms, .certificate = certificate, .key = key});
    boost::asio::io_context io;
    ssl::context context(ssl::context::tls_client);
    ssl::stream<tcp::socket> stream(io, context);
    const auto address = boost::asio::ip::address_v4::loopback();
    stream.next_layer().connect({address, running.port()});
    stream.handshake(ssl::stream_base::client);
    const std::string texts = R"({"inputs":[["a"],["b"],[")" + std::string(50'000, 'c') + "\"]]}";
    boost::asio::write(
        stream, boost::asio::buffer(predict("a") + post("/predict", texts) + get("/health", "Connection: close\r\n")));
    boost::beast::flat_buffer buffer;
    for (int i = 0; i < 3; ++i) {
      Response response;
      http::read(stream, buffer, response);
      BOOST_TEST(response.result_int() == 200U);
    }
    boost::system::error_code ec;
    char byte = 0;
    boost::asio::read(stream, boost::asio::buffer(&byte, 1), ec);
    BOOST_TEST(ec == boost::asio::error::eof);  // said so, and not cut off
    Client plain(running.port()), silent(running.port());
    plain.send(get("/health"));
    BOOST_TEST(plain.ended());
    BOOST_TEST(silent.ended());  // no handshake in time
  }
  ServerOptions swapped{.certificate = key, .key = certificate};
  Registry registry;
  swapped.port = 0;
  BOOST_CHECK_THROW(Server(registry, swapped), Error);
}

#endif

BOOST_AUTO_TEST_CASE(several_loops_serve_as_one) {
  Running running(ServerOptions{.loops = 3});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 9; ++i) {
    clients.push_back(std::make_unique<Client>(running.port()));
    clients.back()->send(predict("a") + predict("b"));
  }
  for (const auto& client : clients) {
    BOOST_TEST(client->receive()->result_int() == 200U);
    BOOST_TEST(client->receive()->result_int() == 200U);
  }
  clients.clear();
  running.stop();
  BOOST_TEST(running.drained);
}

BOOST_AUTO_TEST_CASE(a_port_that_is_taken_is_said_so) {
  Running running;
  ServerOptions options;
  options.port = running.port();
  try {
    Server second(running.registry, options);
    BOOST_ERROR("bound twice");
  } catch (const Error& error) {
    BOOST_TEST(error.kind() == Kind::unavailable);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb
