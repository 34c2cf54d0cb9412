#include "inference.h"

#include <algorithm>

namespace atb::rpc {
namespace {

constexpr std::size_t inline_bytes = 32 * 1024;  // of a request; larger ones are read by another thread

}  // namespace

grpc::ServerUnaryReactor* InferCall::begin(Shared& shared, grpc::CallbackServerContext& context,
                                           const inference::ModelInferRequest& request,
                                           inference::ModelInferResponse& response) {
  auto call = std::unique_ptr<InferCall>(new InferCall(shared, context, request, response));
  shared.asked = true;
  InferCall* kept = call.release();  // gRPC's until OnDone, which waits for Finish
  if (request.ByteSizeLong() <= inline_bytes) {
    kept->read_and_start();
  } else {
    shared.readers.add([kept] { kept->read_and_start(); });
  }
  return kept;
}

InferCall::InferCall(Shared& shared, grpc::CallbackServerContext& context, const inference::ModelInferRequest& request,
                     inference::ModelInferResponse& response)
    : shared_(shared), context_(context), request_(request), response_(response) {}

void InferCall::OnDone() { const std::unique_ptr<InferCall> self(this); }

// Whichever of this and `read_and_start` comes second sees what the first wrote.
void InferCall::OnCancel() {
  cancelled_ = true;
  if (Inference* work = started_) {
    work->abandon();
  }
}

Clock::time_point InferCall::deadline() const {
  // Compared as microseconds, which hold whatever a client may say; as nanoseconds it could overflow.
  std::chrono::microseconds most = shared_.options.deadline;
  most = std::min(most, asked_.timeout.value_or(most));
  const auto left = context_.deadline() - std::chrono::system_clock::now();  // gRPC's own, by the wall clock
  return begun_ + std::min<Clock::duration>(most, std::chrono::duration_cast<Clock::duration>(left));
}

void InferCall::read_and_start() {
  try {
    if (!shared_.admits(context_)) {
      shared_.metrics.refused(Kind::invalid);
      Finish(unauthenticated());
      return;
    }
    found_ = shared_.find(request_.model_name(), request_.model_version());
    const InputLimits limits{shared_.options.rows, shared_.options.text_bytes};
    asked_ = read(request_, limits);
    work_ = encode(found_.model, asked_.inputs, limits);
  } catch (const Error& error) {
    refuse(error.kind(), error.what());
    return;
  } catch (const std::exception& error) {
    refuse(Kind::internal, error.what());
    return;
  }
  started_ = work_.get();
  if (cancelled_) {
    work_->abandon();
  }
  timing_.tokenise = elapsed();
  work_->start(deadline(), [this](Inference& work) { finish(work); });
}

void InferCall::finish(const Inference& work) {
  if (auto why = work.refused()) {
    // A batcher that drains says that it has no room.
    why = *why == Kind::overloaded && shared_.stopping ? Kind::unavailable : *why;
    refuse(*why, explain(*why, work.model()));
    return;
  }
  try {
    response_.set_model_name(request_.model_name());
    response_.set_model_version(found_.version);
    response_.set_id(request_.id());
    write(work, asked_, response_);
  } catch (const std::exception& error) {
    refuse(Kind::internal, error.what());
    return;
  }
  timing_.queue = work.queue_time();
  timing_.engine = work.engine_time();
  timing_.total = elapsed();
  found_.metrics->answered(timing_, work.rows(), work.batch());
  Finish(grpc::Status::OK);
}

void InferCall::refuse(Kind why, const std::string& message) {
  if (found_.metrics != nullptr) {
    found_.metrics->refused(why, elapsed());
  } else {
    shared_.metrics.refused(why);
  }
  if (why == Kind::overloaded && found_.model) {
    context_.AddTrailingMetadata("retry-after", std::to_string(retry_after(*found_.model)));
  }
  Finish(refusal(why, message));
}

}  // namespace atb::rpc
