#include "service.h"

#include <algorithm>
#include <utility>

#include "inference.h"

namespace atb::rpc {
namespace {

/// What `work` throws, in gRPC's words.
template <typename Work>
grpc::Status guarded(Work&& work) {
  try {
    work();
    return grpc::Status::OK;
  } catch (const Error& error) {
    return refusal(error.kind(), error.what());
  } catch (const std::exception& error) {
    return refusal(Kind::internal, error.what());
  }
}

void add_tensor(google::protobuf::RepeatedPtrField<inference::ModelMetadataResponse::TensorMetadata>& tensors,
                const char* name, const char* datatype, std::initializer_list<std::int64_t> shape) {
  auto& tensor = *tensors.Add();
  tensor.set_name(name);
  tensor.set_datatype(datatype);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
}

std::uint64_t read(const Counter& counter) { return counter.load(std::memory_order_relaxed); }

void set(inference::StatisticDuration& duration, std::uint64_t count, std::uint64_t ns) {
  duration.set_count(count);
  duration.set_ns(ns);
}

/// Counts are of a name, over its versions: requests rarely say which one they want.
void fill_statistics(const Registry::Entry& entry, const ModelMetrics& metrics, inference::ModelStatistics& out) {
  const std::uint64_t answered = read(metrics.outcomes[kinds]);
  std::uint64_t failed = 0;
  for (std::size_t i = 0; i < kinds; ++i) {
    failed += read(metrics.outcomes[i]);
  }
  out.set_name(entry.name);
  out.set_version(entry.version);
  out.set_last_inference(static_cast<std::uint64_t>(metrics.last_ms.load(std::memory_order_relaxed)));
  out.set_inference_count(read(metrics.rows));
  out.set_execution_count(entry.model ? entry.model->batcher().counts().batches : 0);
  auto& stats = *out.mutable_inference_stats();
  const std::uint64_t tokenise = read(metrics.nanoseconds[0]), queue = read(metrics.nanoseconds[1]);
  const std::uint64_t engine = read(metrics.nanoseconds[2]), total = read(metrics.nanoseconds[3]);
  set(*stats.mutable_success(), answered, total);
  set(*stats.mutable_fail(), failed, read(metrics.failed_nanoseconds));
  set(*stats.mutable_queue(), answered, queue);
  set(*stats.mutable_compute_input(), answered, tokenise);
  set(*stats.mutable_compute_infer(), answered, engine);
  set(*stats.mutable_compute_output(), answered, total - std::min(total, tokenise + queue + engine));
}

}  // namespace

template <typename Fill>
OipService::Reactor* OipService::answer(Context* context, Fill fill) {
  Reactor* reactor = context->DefaultReactor();
  reactor->Finish(shared_.admits(*context) ? guarded(fill) : unauthenticated());
  return reactor;
}

template <typename Change>
OipService::Reactor* OipService::manage(Context* context, Change change) {
  Reactor* reactor = context->DefaultReactor();
  if (!shared_.admits(*context)) {
    reactor->Finish(unauthenticated());
  } else if (!shared_.options.manage) {
    reactor->Finish(
        {grpc::StatusCode::PERMISSION_DENIED, "this server lets no client load or unload; start it with --manage"});
  } else {
    shared_.managers.add([reactor, change] { reactor->Finish(guarded(change)); });
  }
  return reactor;
}

// Probes come without a token.
OipService::Reactor* OipService::ServerLive(Context* context, const inference::ServerLiveRequest* /*request*/,
                                            inference::ServerLiveResponse* response) {
  response->set_live(true);
  Reactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

OipService::Reactor* OipService::ServerReady(Context* context, const inference::ServerReadyRequest* /*request*/,
                                             inference::ServerReadyResponse* response) {
  response->set_ready(ready());
  Reactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

OipService::Reactor* OipService::ModelReady(Context* context, const inference::ModelReadyRequest* request,
                                            inference::ModelReadyResponse* response) {
  return answer(context, [&] {
    try {
      response->set_ready(shared_.registry.find(request->name(), request->version()) && !shared_.stopping);
    } catch (const Error&) {  // of a model that is not there, "no" is the answer
      response->set_ready(false);
    }
  });
}

OipService::Reactor* OipService::ServerMetadata(Context* context, const inference::ServerMetadataRequest* /*request*/,
                                                inference::ServerMetadataResponse* response) {
  return answer(context, [&] {
    response->set_name("atb");
    response->set_version(version.data(), version.size());
    for (const char* extension : {"model_repository", "statistics"}) {
      response->add_extensions(extension);
    }
  });
}

OipService::Reactor* OipService::ModelMetadata(Context* context, const inference::ModelMetadataRequest* request,
                                               inference::ModelMetadataResponse* response) {
  return answer(context, [&] {
    const auto model = shared_.registry.find(request->name(), request->version());
    response->set_name(request->name());
    for (const Registry::Entry& entry : shared_.registry.entries()) {
      if (entry.name == request->name() && entry.model && (request->version().empty() || entry.model == model)) {
        response->add_versions(entry.version);
      }
    }
    const auto& engines = model->bundle().engines;
    response->set_platform("atb_" + (engines.empty() ? "none" : engines.front().target.backend));
    add_tensor(*response->mutable_inputs(), "text", "BYTES", {-1});
    for (const char* name : {"input_ids", "attention_mask", "token_type_ids"}) {
      add_tensor(*response->mutable_inputs(), name, "INT64", {-1, -1});
    }
    const auto labels = static_cast<std::int64_t>(model->bundle().labels.size());
    add_tensor(*response->mutable_outputs(), "logits", "FP32", {-1, labels});
    add_tensor(*response->mutable_outputs(), "label", "BYTES", {-1});
    add_tensor(*response->mutable_outputs(), "score", "FP32", {-1});
  });
}

OipService::Reactor* OipService::ModelInfer(Context* context, const inference::ModelInferRequest* request,
                                            inference::ModelInferResponse* response) {
  return InferCall::begin(shared_, *context, *request, *response);
}

OipService::Reactor* OipService::ModelStatistics(Context* context, const inference::ModelStatisticsRequest* request,
                                                 inference::ModelStatisticsResponse* response) {
  return answer(context, [&] {
    if (!request->name().empty()) {
      static_cast<void>(shared_.registry.find(request->name(), request->version()));  // throws
    }
    for (const Registry::Entry& entry : shared_.registry.entries()) {
      if (entry.model && (request->name().empty() || entry.name == request->name()) &&
          (request->version().empty() || entry.version == request->version())) {
        fill_statistics(entry, shared_.metrics.of(entry.name), *response->add_model_stats());
      }
    }
  });
}

OipService::Reactor* OipService::RepositoryIndex(Context* context, const inference::RepositoryIndexRequest* request,
                                                 inference::RepositoryIndexResponse* response) {
  return answer(context, [&] {
    for (const Registry::Entry& entry : shared_.registry.entries()) {
      if (!entry.model && request->ready()) {
        continue;
      }
      auto& model = *response->add_models();
      model.set_name(entry.name);
      model.set_version(entry.version);
      model.set_state(entry.model ? "READY" : "UNAVAILABLE");
      model.set_reason(entry.reason);
    }
  });
}

OipService::Reactor* OipService::RepositoryModelLoad(Context* context,
                                                     const inference::RepositoryModelLoadRequest* request,
                                                     inference::RepositoryModelLoadResponse* /*response*/) {
  return manage(context, [this, request] {
    for (const auto& parameter : request->parameters()) {
      if (parameter.first == "config" || parameter.first.starts_with("file:")) {
        throw Error(Kind::invalid, "a model is loaded from its own folder; no files or configuration are taken");
      }
    }
    shared_.registry.load(request->model_name());
  });
}

OipService::Reactor* OipService::RepositoryModelUnload(Context* context,
                                                       const inference::RepositoryModelUnloadRequest* request,
                                                       inference::RepositoryModelUnloadResponse* /*response*/) {
  return manage(context, [this, request] { shared_.registry.unload(request->model_name()); });
}

}  // namespace atb::rpc
