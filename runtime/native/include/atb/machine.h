// What of this machine we may use.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

namespace atb {

/// Cores of the affinity mask, ascending.
std::vector<int> affinity();
/// Cores' worth of time that the cgroup (v2 `cpu.max`, v1 quota / period) and those above it allow; none: no limit.
/// `root` is where `/proc` and `/sys` are looked for.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");
/// How many cores there are to use: of the mask, and no more than the quota allows, rounded down, at least 1.
unsigned usable_cpus(const std::filesystem::path& root = "/");
/// Binds the calling thread; false where the system refuses.
bool pin_to(int core);

}  // namespace atb
