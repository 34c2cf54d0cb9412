// One ModelInfer call, from its message to its answer.
#pragma once

#include <atomic>
#include <memory>

#include "answers.h"
#include "messages.h"

namespace atb::rpc {

/// Lives from the call's message to the last that gRPC has to say of it.
class InferCall final : public grpc::ServerUnaryReactor {
 public:
  /// The reactor of a call; whatever becomes of it, it finishes by itself.
  static grpc::ServerUnaryReactor* begin(Shared& shared, grpc::CallbackServerContext& context,
                                         const inference::ModelInferRequest& request,
                                         inference::ModelInferResponse& response);

 private:
  InferCall(Shared& shared, grpc::CallbackServerContext& context, const inference::ModelInferRequest& request,
            inference::ModelInferResponse& response);

  void read_and_start();
  void finish(const Inference& work);
  void refuse(Kind why, const std::string& message);
  [[nodiscard]] Clock::time_point deadline() const;
  [[nodiscard]] std::chrono::nanoseconds elapsed() const { return Clock::now() - begun_; }

  void OnCancel() override;
  void OnDone() override;

  Shared& shared_;
  grpc::CallbackServerContext& context_;
  const inference::ModelInferRequest& request_;
  inference::ModelInferResponse& response_;
  const Clock::time_point begun_ = Clock::now();
  Asked asked_;
  Found found_;
  Timing timing_;
  std::shared_ptr<Inference> work_;
  std::atomic<Inference*> started_ = nullptr;  // `work_`, for `OnCancel`, which may come from another thread before it
  std::atomic<bool> cancelled_ = false;
};

}  // namespace atb::rpc
