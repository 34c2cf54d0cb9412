// The service over a socket, with an engine that does what a test says.
#define BOOST_TEST_MODULE grpc
#include <grpcpp/grpcpp.h>

#include <boost/test/included/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <optional>
#include <thread>

#include "grpc/errands.h"
#include "grpc/messages.h"
#include "oip.grpc.pb.h"
#include "scratch.h"
#include "server/front.h"
#include "server_fakes.h"

namespace atb {
namespace {

using namespace std::chrono_literals;
using grpc::StatusCode;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using test::Behaviour;

struct Running {
  test::Scratch scratch;
  std::shared_ptr<Behaviour> behaviour = std::make_shared<Behaviour>();
  Registry registry;
  ServerOptions options;
  Metrics metrics;
  std::atomic<bool> stopping = false;
  std::unique_ptr<Front> front;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub;

  explicit Running(const ServerOptions& the_options = {}, test::FakeOptions how = {})
      : registry([b = behaviour, how](const auto&, const auto&) { return fake_model(b, how); }), options(the_options) {
    std::ofstream(scratch.path() / "manifest.json") << "{}";
    registry.add("m", scratch.path(), {});
    registry.load("m");
    behaviour->runs = 0;  // without those that warmed it up
    options.grpc_port = 0;
    front = open_grpc(registry, options, metrics, stopping);
    stub = inference::GRPCInferenceService::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(front->port()), grpc::InsecureChannelCredentials()));
  }
  ~Running() { behaviour->held = false; }

  std::uint64_t refused(Kind why) { return metrics.of("m").outcomes[static_cast<std::size_t>(why)]; }
};

ModelInferRequest request(const std::vector<std::string>& texts) {
  ModelInferRequest made;
  made.set_model_name("m");
  auto& input = *made.add_inputs();
  input.set_name("text");
  input.set_datatype("BYTES");
  input.add_shape(static_cast<std::int64_t>(texts.size()));
  for (const auto& text : texts) {
    input.mutable_contents()->add_bytes_contents(text);
  }
  return made;
}

template <class Condition>
bool soon(Condition condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

/// A call under way.
struct Call {
  grpc::ClientContext context;
  ModelInferResponse response;
  std::future<grpc::Status> status;

  Call(Running& running, const ModelInferRequest& asked, std::optional<std::chrono::milliseconds> deadline = {}) {
    if (deadline) {
      context.set_deadline(std::chrono::system_clock::now() + *deadline);
    }
    status = std::async(std::launch::async,
                        [this, &running, asked] { return running.stub->ModelInfer(&context, asked, &response); });
  }
};

BOOST_AUTO_TEST_CASE(answers_what_the_engine_answers) {
  Running running;
  const std::vector<std::string> texts{"ab", "hello world", "", "a b c d e f g h i j k l m n o p q r s t"};
  Call call(running, request(texts));
  BOOST_REQUIRE(call.status.get().ok());
  const auto model = running.registry.find("m");
  const auto& found = call.response.outputs(0).contents().fp32_contents();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    Encoding tokens;
    model->tokenizer().encode(texts[i], model->max_length(), tokens);
    const auto expected = model->logits(tokens);
    const auto* row = found.data() + i * expected.size();
    BOOST_TEST(std::vector<float>(row, row + expected.size()) == expected, boost::test_tools::per_element());
    const Score score = best(*model, expected);
    BOOST_TEST(call.response.outputs(1).contents().bytes_contents(static_cast<int>(i)) == score.label);
    BOOST_TEST(call.response.outputs(2).contents().fp32_contents(static_cast<int>(i)) ==
               static_cast<float>(score.score));
  }
  BOOST_TEST(call.response.model_version() == "1");
}

BOOST_AUTO_TEST_CASE(a_cancelled_call_is_not_computed) {
  Running running;
  running.behaviour->held = true;
  Call first(running, request({"ab"}));
  BOOST_REQUIRE(soon([&] { return running.behaviour->runs == 1; }));
  Call second(running, request({"cd"}));
  BOOST_REQUIRE(soon([&] { return running.registry.find("m")->batcher().counts().waiting == 1; }));
  second.context.TryCancel();
  BOOST_TEST(second.status.get().error_code() == StatusCode::CANCELLED);
  std::this_thread::sleep_for(50ms);  // until the server has heard of it
  running.behaviour->held = false;
  BOOST_TEST(first.status.get().ok());
  BOOST_TEST(soon([&] { return running.refused(Kind::cancelled) == 1; }));
  BOOST_TEST(running.behaviour->runs == 1);
}

BOOST_AUTO_TEST_CASE(the_clients_deadline_is_the_batchers) {
  Running running;
  running.behaviour->held = true;
  Call first(running, request({"ab"}));
  BOOST_REQUIRE(soon([&] { return running.behaviour->runs == 1; }));
  Call second(running, request({"cd"}), 20ms);
  BOOST_TEST(second.status.get().error_code() == StatusCode::DEADLINE_EXCEEDED);
  auto asked = request({"ef"});
  (*asked.mutable_parameters())["timeout"].set_int64_param(1000);
  Call third(running, asked);
  std::this_thread::sleep_for(20ms);
  running.behaviour->held = false;
  BOOST_TEST(first.status.get().ok());
  BOOST_TEST(third.status.get().error_code() == StatusCode::DEADLINE_EXCEEDED);
  BOOST_TEST(running.behaviour->runs == 1);
}

BOOST_AUTO_TEST_CASE(a_full_queue_refuses_at_once) {
  Running running({}, {.queue = 1});
  running.behaviour->held = true;
  Call first(running, request({"ab"}));
  BOOST_REQUIRE(soon([&] { return running.behaviour->runs == 1; }));
  Call second(running, request({"cd"}));
  BOOST_REQUIRE(soon([&] { return running.registry.find("m")->batcher().counts().waiting == 1; }));
  Call third(running, request({"ef"}));
  BOOST_TEST(third.status.get().error_code() == StatusCode::RESOURCE_EXHAUSTED);
  BOOST_TEST(third.context.GetServerTrailingMetadata().count("retry-after") == 1U);
  running.behaviour->held = false;
  BOOST_TEST(first.status.get().ok());
  BOOST_TEST(second.status.get().ok());
}

BOOST_AUTO_TEST_CASE(what_was_accepted_is_answered_before_the_end) {
  ServerOptions options;
  options.deadline = 10s;
  Running running(options);
  running.behaviour->held = true;
  Call first(running, request({"ab"}));
  Call second(running, request({"cd", "ef"}));
  BOOST_REQUIRE(soon([&] { return running.registry.find("m")->batcher().counts().waiting == 2; }));
  running.stopping = true;
  auto drained = std::async(std::launch::async, [&] { return running.front->drain(Clock::now() + 4s); });
  BOOST_TEST((drained.wait_for(1200ms) == std::future_status::timeout));
  running.behaviour->held = false;
  BOOST_TEST(drained.get());
  BOOST_TEST(first.status.get().ok());
  BOOST_REQUIRE(second.status.get().ok());
  BOOST_TEST(second.response.outputs(0).contents().fp32_contents_size() == 2 * static_cast<int>(test::fake_labels));
}

BOOST_AUTO_TEST_CASE(a_drain_ends_when_its_time_is_up) {
  Running running;
  running.behaviour->held = true;
  Call call(running, request({"ab"}));
  BOOST_REQUIRE(soon([&] { return running.behaviour->runs == 1; }));
  auto drained = std::async(std::launch::async, [&] { return running.front->drain(Clock::now() + 100ms); });
  BOOST_TEST((call.status.get().error_code() != StatusCode::OK));
  running.behaviour->held = false;
  BOOST_TEST(!drained.get());
}

BOOST_AUTO_TEST_CASE(large_requests_are_answered_too) {
  Running running;
  const std::string text(100'000, 'a');
  Call call(running, request({text, "ab"}));
  BOOST_TEST(call.status.get().ok());
  Call over(running, request({std::string(300'000, 'a')}));
  BOOST_TEST(over.status.get().error_code() == StatusCode::RESOURCE_EXHAUSTED);
}

BOOST_AUTO_TEST_CASE(a_port_that_is_taken_is_refused) {
  Running running;
  ServerOptions options = running.options;
  options.grpc_port = running.front->port();
  BOOST_CHECK_EXCEPTION(open_grpc(running.registry, options, running.metrics, running.stopping), Error,
                        [](const Error& error) { return error.kind() == Kind::unavailable; });
}

BOOST_AUTO_TEST_CASE(errands_run_in_their_order_and_all_of_them) {
  std::vector<int> done;
  {
    rpc::Errands errands;
    for (int i = 0; i < 100; ++i) {
      errands.add([&done, i] { done.push_back(i); });
    }
  }
  BOOST_REQUIRE(done.size() == 100U);
  BOOST_TEST(std::is_sorted(done.begin(), done.end()));
}

Kind refusal_of(const ModelInferRequest& asked) {
  try {
    read(asked, {});
  } catch (const Error& error) {
    return error.kind();
  }
  BOOST_FAIL("it was taken");
  return Kind::internal;
}

BOOST_AUTO_TEST_CASE(messages_that_contradict_themselves_are_refused) {
  BOOST_TEST(read(request({"a", "b"}), {}).inputs[0].texts.size() == 2U);
  auto asked = request({"a"});
  asked.add_raw_input_contents(std::string("\1\0\0\0a", 5));
  BOOST_TEST(refusal_of(asked) == Kind::invalid);
  asked.mutable_inputs(0)->clear_contents();
  BOOST_TEST(read(asked, {}).inputs[0].texts[0] == "a");
  asked.add_raw_input_contents("");
  BOOST_TEST(refusal_of(asked) == Kind::invalid);
  asked.clear_raw_input_contents();
  asked.add_raw_input_contents(std::string("\377\377\377\377a", 5));
  BOOST_TEST(refusal_of(asked) == Kind::invalid);
  asked = request({"a"});
  asked.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  BOOST_TEST(refusal_of(asked) == Kind::invalid);
  asked = request(std::vector<std::string>(600, "a"));
  BOOST_TEST(refusal_of(asked) == Kind::too_large);
  asked = request({"a"});
  (*asked.mutable_parameters())["timeout"].set_uint64_param(~std::uint64_t{0});
  BOOST_TEST(refusal_of(asked) == Kind::invalid);
  (*asked.mutable_parameters())["timeout"].set_int64_param(0);
  BOOST_TEST(!read(asked, {}).timeout);
}

}  // namespace
}  // namespace atb
