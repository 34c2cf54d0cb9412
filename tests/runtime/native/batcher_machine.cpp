// What of a machine is ours, by folders that say so.
#include <boost/test/unit_test.hpp>
#include <fstream>
#include <thread>

#include "atb/machine.h"
#include "scratch.h"

namespace atb::test {
namespace {

namespace fs = std::filesystem;

/// A root folder with files.
struct Root : Scratch {
  Root& file(const std::string& name, const std::string& text) {
    fs::create_directories((path() / name).parent_path());
    std::ofstream(path() / name) << text;
    return *this;
  }
};

const std::string second = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string first =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

BOOST_AUTO_TEST_SUITE(machine)

BOOST_AUTO_TEST_CASE(nothing_told_is_no_limit) {
  const Root root;
  BOOST_TEST(!cpu_quota(root.path()).has_value());
  BOOST_TEST(usable_cpus(root.path()) == affinity().size());
}

BOOST_AUTO_TEST_CASE(version_two) {
  Root root;
  root.file("proc/self/mountinfo", second).file("proc/self/cgroup", "0::/\n");
  root.file("sys/fs/cgroup/cpu.max", "max 100000\n");
  BOOST_TEST(!cpu_quota(root.path()).has_value());
  root.file("sys/fs/cgroup/cpu.max", "150000 100000\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 1.5);
  BOOST_TEST(usable_cpus(root.path()) == 1U);
  root.file("sys/fs/cgroup/cpu.max", "5000 100000\n");
  BOOST_TEST(usable_cpus(root.path()) == 1U);  // never none
}

BOOST_AUTO_TEST_CASE(the_tightest_of_a_group_and_those_above_it) {
  Root root;
  root.file("proc/self/mountinfo", second).file("proc/self/cgroup", "0::/pods/one/box\n");
  root.file("sys/fs/cgroup/pods/one/box/cpu.max", "max 100000\n");
  root.file("sys/fs/cgroup/pods/one/cpu.max", "300000 100000\n");
  root.file("sys/fs/cgroup/pods/cpu.max", "800000 100000\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 3.0);
  root.file("sys/fs/cgroup/pods/other/cpu.max", "100000 100000\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 3.0);
}

BOOST_AUTO_TEST_CASE(version_one) {
  Root root;
  root.file("proc/self/mountinfo", first);
  root.file("proc/self/cgroup", "7:memory:/elsewhere\n4:cpu,cpuacct:/docker/one\n0::/\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_quota_us", "250000\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_period_us", "100000\n");
  root.file("sys/fs/cgroup/memory/elsewhere/cpu.cfs_quota_us", "1\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 2.5);
  root.file("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_quota_us", "-1\n");
  BOOST_TEST(!cpu_quota(root.path()).has_value());
}

BOOST_AUTO_TEST_CASE(a_container_that_sees_its_own_group_only) {
  // The name is the host's, the mount shows that very group: its files are at the top.
  Root root;
  root.file("proc/self/mountinfo", "32 31 0:29 /docker/one /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  root.file("proc/self/cgroup", "4:cpu:/docker/one\n");
  root.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
  root.file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "200000\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 2.0);
  // Or a name that leaves the mount.
  root.file("proc/self/cgroup", "4:cpu:/../../other\n");
  BOOST_TEST(cpu_quota(root.path()).value() == 2.0);
}

BOOST_AUTO_TEST_CASE(files_that_hold_no_numbers) {
  Root root;
  root.file("proc/self/mountinfo", second + "broken\n- -\n").file("proc/self/cgroup", "no colons\n0::/\n");
  for (const char* text : {"", "lots 100000", "100000", "0 0", "100000 0", "-5 100000"}) {
    root.file("sys/fs/cgroup/cpu.max", text);
    BOOST_TEST(!cpu_quota(root.path()).has_value());
  }
}

BOOST_AUTO_TEST_CASE(a_thread_is_bound_to_a_core_of_the_mask) {
  const auto cores = affinity();
  BOOST_TEST_REQUIRE(!cores.empty());
  std::thread([&] {
    BOOST_TEST(pin_to(cores.back()));
    BOOST_TEST(affinity() == std::vector<int>{cores.back()}, boost::test_tools::per_element());
  }).join();
  BOOST_TEST(affinity() == cores, boost::test_tools::per_element());  // of that thread alone
  BOOST_TEST(!pin_to(-1));
  BOOST_TEST(!pin_to(1 << 20));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace atb::test
