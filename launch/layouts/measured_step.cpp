// SPDX-License-Identifier: Apache-2.0
#include "launch/layouts/measured_step.h"

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>

#include "launch/config/config.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/rounding.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

double positive(const Json& json, const char* key) {
  const double value = json.at(key).as_number();
  if (!(value > 0.0)) throw InvalidArgument(fmt::format("{} = {}: must be > 0", key, value));
  return value;
}

MeasuredStep parsed(const Json& json, const std::string& name) {
  constexpr std::int64_t most_ranks = 1 << 20;
  const Json& machine = json.at("machine");
  const Json& step = json.at("step");
  MeasuredStep measured{.file = name,
                        .config = parse_config(json.at("config").as_string(), name, {})};
  measured.ranks = static_cast<int>(machine.at("ranks").as_integer(1, most_ranks));
  measured.threads_per_rank =
      static_cast<int>(machine.at("threads_per_rank").as_integer(1, most_ranks));
  measured.on_gpu = !machine.at("device").as_string().empty();
  measured.copy = positive(machine, "copy_bytes_per_second") / measured.ranks;
  measured.memory = static_cast<std::size_t>(machine.at("memory_of_rank_bytes").as_integer(1));
  if (measured.ranks > 1) {
    const Json& link = machine.at("link");
    measured.link = {.all_to_all = positive(link, "all_to_all_bytes_per_second"),
                     .reduce_scatter = positive(link, "reduce_scatter_bytes_per_second"),
                     .all_gather = positive(link, "all_gather_bytes_per_second"),
                     .latency = positive(link, "latency_seconds")};
  }
  TrainConfig& train = measured.config.train;
  const std::int64_t passes = step.at("passes").as_integer(1, train.global_batch);
  const std::int64_t slots = passes * measured.ranks;
  // Only even shares are a micro-batch; others come from the limit of an automatic one.
  train.micro_batch = train.global_batch % slots == 0 ? train.global_batch / slots : 0;
  train.micro_batch_limit = divide_up(train.global_batch, slots);
  const double tokens = static_cast<double>(train.global_batch * measured.config.model.context);
  measured.seconds = tokens / positive(step, "tokens_per_second");
  const Json& seconds = step.at("seconds");
  for (std::size_t i = 0; i < measured.phases.size(); ++i)
    measured.phases[i] = seconds.at(name_of(static_cast<Phase>(i))).as_number();
  const double sum = std::accumulate(measured.phases.begin(), measured.phases.end(), 0.0);
  if (!(sum > 0.0)) throw InvalidArgument("step.seconds: must be > 0 together");
  // Phases are means over steps, the step is their median.
  for (double& phase : measured.phases) phase *= measured.seconds / sum;
  return measured;
}

}  // namespace

MeasuredStep read_measured_step(const std::filesystem::path& bench_json) {
  constexpr std::int64_t most_bytes = 16 << 20;
  const std::string name = bench_json.string();
  try {
    return parsed(parse_json(read_file(bench_json, most_bytes), name), name);
  } catch (const InvalidArgument& error) {
    throw InputFileError(
        name, fmt::format("not what this version's `polymoe bench --filter step --json` writes: {}",
                          error.what()));
  }
}

}  // namespace polymoe
