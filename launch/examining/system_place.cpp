// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "launch/examining/examination.h"
#include "launch/examining/place.h"
#include "launch/machine/node_threads.h"
#include "launch/machine/version.h"
#include "parallel/communication/mpi/environment.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
constexpr double gibi = 1024.0 * 1024.0 * 1024.0, mebi = 1024.0 * 1024.0;

std::string limit_text(int resource, double unit, const char* name) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return "unknown";
  if (limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return fmt::format("{:.0f}{}", static_cast<double>(limit.rlim_cur) / unit, name);
}

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// How the launcher told this process of the others.
std::string wire_up() {
  if (const char* version = std::getenv("PMIX_VERSION")) return fmt::format("PMIx {}", version);
  if (std::getenv("PMIX_RANK") != nullptr) return "PMIx";
  if (std::getenv("PMI_RANK") != nullptr) return "PMI";
  return "none: a process by itself";
}

bool has_infiniband() {
  std::error_code error;
  fs::directory_iterator devices("/sys/class/infiniband", error);
  return !error && devices != fs::directory_iterator();
}

/// Free bytes of the memory that processes of a node exchange through; negative where there is
/// none.
double shared_memory_bytes() {
  struct statvfs status {};
  if (statvfs("/dev/shm", &status) != 0) return -1.0;
  return static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize);
}

void find_problems(const Examiner& examiner, Examination& found) {
  rlimit locked{};
  if (has_infiniband() && getrlimit(RLIMIT_MEMLOCK, &locked) == 0 &&
      locked.rlim_cur != RLIM_INFINITY)
    found.problems.push_back(
        fmt::format("locked memory is limited to {} (ulimit -l): InfiniBand needs unlimited",
                    limit_text(RLIMIT_MEMLOCK, mebi, " MiB")));
  // What Open MPI and NCCL map for each process.
  constexpr double shared_per_rank = 32 * mebi;
  const double shared = shared_memory_bytes();
  if (examiner.ranks_on_node > 1 && shared < shared_per_rank * examiner.ranks_on_node) {
    found.problems.push_back(
        shared < 0.0
            ? std::string("there is no /dev/shm, through which the ranks of a node exchange")
            : fmt::format("/dev/shm has {:.0f} MiB left for {} ranks, which want {:.0f} each "
                          "(a container's --shm-size)",
                          shared / mebi, examiner.ranks_on_node, shared_per_rank / mebi));
  }
  if (examiner.rank_on_node == 0) {
    const std::string idle =
        binding_hint(cores_of_process(0), cores_of_process(getppid()), examiner.ranks_on_node);
    if (!idle.empty() && std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
      found.problems.push_back(idle);
  }
}

}  // namespace

void examine_system(const Examiner& examiner, Examination& found) {
  const auto fact = [&](const std::string& key, const std::string& value) {
    found.facts.emplace_back(key, value);
  };
  fact("polymoe", version() + " " + git_revision());
  fact("MPI", MpiEnvironment::library_version());
  for (const auto& [name, number] : library_versions()) fact(library_fact + name, number);
  utsname system{};
  if (uname(&system) == 0) fact("kernel", system.release);
  fact("ranks know each other by", wire_up());
  fact("processor", processor_name());
  if (examiner.device.type == DeviceType::cuda) {
    const std::string gpu = cuda::describe_device(examiner.device.index);
    fact("GPU", gpu);
    fact("GPU driver", first_line("/proc/driver/nvidia/version"));
    found.figures.push_back(
        {.name = "free memory of the GPU",
         .unit = "GiB",
         .where = found.where,
         .value = static_cast<double>(cuda::memory_info(examiner.device.index).free) / gibi});
  } else {
    fact("GPU", cuda::device_count() == 0 ? cuda::unavailable_reason() : "there, but not used");
  }
  fact("cores that the process may use", std::to_string(usable_cores()));
  fact("threads of a rank", std::to_string(examiner.threads));
  fact("limit of locked memory", limit_text(RLIMIT_MEMLOCK, mebi, " MiB"));
  fact("limit of address space", limit_text(RLIMIT_AS, mebi, " MiB"));
  fact("limit of open files", limit_text(RLIMIT_NOFILE, 1.0, ""));
  fact("limit of a file's size", limit_text(RLIMIT_FSIZE, mebi, " MiB"));
  fact("limit of processes", limit_text(RLIMIT_NPROC, 1.0, ""));
  found.figures.push_back({.name = "memory for the ranks of a node",
                           .unit = "GiB",
                           .where = found.where,
                           .value = static_cast<double>(usable_memory_bytes()) / gibi});
  find_problems(examiner, found);
}

}  // namespace polymoe
