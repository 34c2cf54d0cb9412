#include "atb/machine.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace atb {
namespace {

namespace fs = std::filesystem;

bool lists(const std::string& words, const std::string& wanted) {
  std::istringstream in(words);
  for (std::string word; std::getline(in, word, ',');) {
    if (word == wanted) {
      return true;
    }
  }
  return false;
}

/// Where a hierarchy that limits CPU time is mounted, and which of its groups the mount shows.
struct Mount {
  bool second;  // cgroup v2
  fs::path shown;
  fs::path folder;
};

std::vector<Mount> mounts(const fs::path& root) {
  std::vector<Mount> found;
  std::ifstream in(root / "proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    // id parent device root folder options [tags] - type source options
    std::istringstream words(line);
    std::string skip, shown, folder, type, options;
    words >> skip >> skip >> skip >> shown >> folder;
    while (words >> skip && skip != "-") {
    }
    words >> type >> skip >> options;
    if (type == "cgroup2" || (type == "cgroup" && lists(options, "cpu"))) {
      found.push_back({type == "cgroup2", shown, folder});
    }
  }
  return found;
}

/// The group we are in, as its hierarchy names it; "/" where it is not told.
fs::path own_group(const fs::path& root, bool second) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':');
    const auto last = line.find(':', first + 1);
    if (first == std::string::npos || last == std::string::npos) {
      continue;
    }
    const std::string controllers = line.substr(first + 1, last - first - 1);
    if (second ? controllers.empty() : lists(controllers, "cpu")) {
      return line.substr(last + 1);
    }
  }
  return "/";
}

std::optional<double> limit_of(const fs::path& folder, bool second) {
  double quota = -1;
  double period = 0;
  if (second) {
    std::ifstream in(folder / "cpu.max");  // "max 100000" has no number first
    in >> quota >> period;
  } else {
    std::ifstream(folder / "cpu.cfs_quota_us") >> quota;
    std::ifstream(folder / "cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
}

}  // namespace

std::vector<int> affinity() {
  std::vector<int> cores;
  for (int most = 1024; most <= 1 << 20; most *= 2) {  // the kernel refuses a mask smaller than its own
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(CPU_ALLOC(static_cast<std::size_t>(most)),
                                                                [](cpu_set_t* set) { CPU_FREE(set); });
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    if (sched_getaffinity(0, bytes, mask.get()) == 0) {
      for (int core = 0; core < most; ++core) {
        if (CPU_ISSET_S(static_cast<std::size_t>(core), bytes, mask.get())) {
          cores.push_back(core);
        }
      }
      break;
    }
    if (errno != EINVAL) {
      break;
    }
  }
  return cores;
}

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  for (const Mount& mount : mounts(root)) {
    // A container may see the host's name of its group but only the group's own folder: then that folder is the mount.
    fs::path group = own_group(root, mount.second).lexically_relative(mount.shown).lexically_normal();
    if (group.empty() || *group.begin() == "..") {
      group = ".";
    }
    const fs::path base = root / mount.folder.relative_path();
    for (bool more = true; more; group = group.parent_path()) {
      more = !group.empty();
      if (const auto limit = limit_of(base / group, mount.second)) {
        least = std::min(least.value_or(*limit), *limit);
      }
    }
  }
  return least;
}

unsigned usable_cpus(const fs::path& root) {
  const auto cores = static_cast<double>(affinity().size());
  return static_cast<unsigned>(std::max(1.0, std::floor(std::min(cores, cpu_quota(root).value_or(cores)))));
}

bool pin_to(int core) {
  if (core < 0) {
    return false;
  }
  const auto most = static_cast<std::size_t>(core) + 1;
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(CPU_ALLOC(most), [](cpu_set_t* set) { CPU_FREE(set); });
  const std::size_t bytes = CPU_ALLOC_SIZE(most);
  CPU_ZERO_S(bytes, mask.get());
  CPU_SET_S(static_cast<std::size_t>(core), bytes, mask.get());
  return sched_setaffinity(0, bytes, mask.get()) == 0;
}

}  // namespace atb
