#include "engine/backend.h"

#include <sched.h>

#include <vector>

#include "atb/error.h"

namespace atb {

#define ATB_ENGINE(name) const Backend& name##_backend();
ATB_MORE_ENGINES
#undef ATB_ENGINE

namespace {

std::vector<const Backend*> backends() {
#define ATB_ENGINE(name) &name##_backend(),
  return {&openvino_backend(), ATB_MORE_ENGINES};
#undef ATB_ENGINE
}

/// The one of that name, null where this library has none.
const Backend* find(const std::string& name) {
  for (const Backend* backend : backends())
    if (name == backend->name()) return backend;
  return nullptr;
}

std::string refusal(const Backend* backend, const Target& target) {
  if (backend == nullptr) {
    std::string have;
    for (const Backend* other : backends()) have += (have.empty() ? "" : ", ") + std::string(other->name());
    return "this library was built without " + target.backend + "; it has " + have;
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (target.device == "CPU" && sched_getaffinity(0, sizeof set, &set) == 0)
    if (const auto cpus = static_cast<std::size_t>(CPU_COUNT(&set)); target.threads > cpus)
      return "the target asks for " + std::to_string(target.threads) + " threads, but this process may use " +
             std::to_string(cpus) + " CPUs; build an engine for at most " + std::to_string(cpus);
  return backend->refusal(target);
}

}  // namespace

void refuse_entry(const EngineEntry& entry, const std::string& why) {
  throw Error(Kind::bundle, entry.target.label() + " (" + entry.artifact.string() + "): " + why);
}

bool can_run(const Target& target) { return refusal(find(target.backend), target).empty(); }

std::shared_ptr<const Engine> open_engine(const EngineEntry& entry, std::size_t batch, unsigned at_once) {
  EngineEntry wanted = entry;
  if (batch != 0) wanted.target.batch = batch;
  const Backend* backend = find(entry.target.backend);
  if (const std::string why = refusal(backend, wanted.target); !why.empty()) refuse_entry(wanted, why);
  std::shared_ptr<const Engine> engine = backend->open(wanted, at_once == 0 ? 1 : at_once);
  if (const std::string effective = engine->effective_precision(); effective != entry.effective_precision)
    refuse_entry(wanted, "it computes in " + effective + " here, the bundle says " + entry.effective_precision +
                             "; build the engines for this machine with `atb export --rebuild`");
  return engine;
}

}  // namespace atb
