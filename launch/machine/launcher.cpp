// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/launcher.h"

#include <fmt/core.h>

#include <charconv>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

namespace polymoe {

Launcher find_launcher(
    const std::function<std::optional<std::string>(const std::string& name)>& variable) {
  const auto number = [&](const char* name) -> std::optional<int> {
    const auto text = variable(name);
    if (!text) return std::nullopt;
    int value = 0;
    std::from_chars(text->data(), text->data() + text->size(), value);
    return value;
  };
  Launcher launcher;
  if (const auto ranks = number("OMPI_COMM_WORLD_SIZE")) {
    launcher.by_mpirun = true;
    launcher.ranks = *ranks;
    launcher.rank = number("OMPI_COMM_WORLD_RANK").value_or(0);
    launcher.needs_mpi = *ranks > 1;
    return launcher;
  }
  const std::optional<int> pmix = number("PMIX_RANK"), pmi = number("PMI_RANK");
  const std::optional<int> tasks = number("SLURM_STEP_NUM_TASKS");
  launcher.rank = pmix.value_or(pmi.value_or(number("SLURM_PROCID").value_or(0)));
  launcher.ranks = tasks.value_or(number("PMI_SIZE").value_or(1));
  if (tasks && *tasks == 1) return launcher;
  launcher.needs_mpi = pmix.has_value() || pmi.has_value();
  if (tasks && !launcher.needs_mpi)
    launcher.problem = fmt::format(
        "srun started {} tasks that do not know of each other, so that each would run by itself: "
        "use srun --mpi=pmix, or mpirun inside the allocation",
        *tasks);
  return launcher;
}

Launcher find_launcher() {
  return find_launcher([](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

}  // namespace polymoe
