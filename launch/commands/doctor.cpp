// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <iostream>
#include <system_error>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/examining/examination.h"
#include "launch/examining/place.h"
#include "launch/examining/speed.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/node_threads.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "runtime/files/json.h"
#include "runtime/files/named_output.h"
#include "runtime/random.h"
#include "runtime/stream.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

/// A whole number of an option.
int number_of(const CommandLine& line, const char* option, int otherwise, int least, int most) {
  if (!line.has(option)) return otherwise;
  const std::string text = line.value(option);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw InvalidArgument(
        fmt::format("--{} = {}: must be a whole number from {} to {}", option, text, least, most));
  return value;
}

/// What all ranks found, on rank 0.
std::vector<Examination> gather(const Examination& own, Communicator& world) {
  std::vector<Examination> all;
  for (const std::string& text : gather_text(to_json(own).dump(), world))
    if (!text.empty()) all.push_back(examination_of(parse_json(text, "examination")));
  return all;
}

/// The better of two measurements of the same.
void take_better(const std::vector<Figure>& again, std::vector<Figure>& figures) {
  for (Figure& figure : figures)
    for (const Figure& other : again)
      if (other.name == figure.name && other.where == figure.where)
        figure.value = figure.more_is_better ? std::max(figure.value, other.value)
                                             : std::min(figure.value, other.value);
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = doctor_command().parse(args);
  const double tolerance = 0.01 * number_of(line, "tolerance", 10, 0, 1000000);
  const int rounds = number_of(line, "rounds", 8, 1, 100000);
  const std::string directory = line.value("dir", ".");
  if (line.has("json"))
    on_first_rank(*context.world, [&] {  // better now than after the work
      check_named_output(line.value("json"));
    });
  const int threads = threads_per_rank(*context.world);
  omp_set_num_threads(threads);
  const Device device = inference_device(line, context);
  Communicator& world = *context.world;
  const Examiner examiner{.rank_on_node = context.rank_on_node,
                          .ranks_on_node = context.ranks_on_node,
                          .device = device,
                          .threads = threads};
  Examination own;
  own.where = fmt::format("rank {} ({})", context.rank, host_name());
  examine_system(examiner, own);
  {
    Execution execution({.device = device, .capacity = examined_arena_bytes(device)});
    const auto measure = [&](Examination& found) {
      examine_rates(compute_dtype(Precision::automatic, device.backend()), rounds, world,
                    execution.context(), found);
      examine_exchange(rounds, static_cast<std::int64_t>(hash_of(host_name())),
                       context.rank_on_node == 0, world, execution.context(), found);
    };
    measure(own);
    // A moment in which another process had the machine is no finding.
    const auto all = gather(own, world);
    std::int64_t again = all.empty() || findings(all, tolerance).empty() ? 0 : 1;
    world.broadcast(Tensor(&again, {1}, DType::i64, Device::cpu()), 0, execution.stream());
    if (again != 0) {
      Examination second{
          .where = own.where, .figures = {}, .facts = {}, .problems = {}, .remarks = {}};
      measure(second);
      take_better(second.figures, own.figures);
    }
  }
  examine_files(directory, rounds, examiner, world, own);
  const std::vector<Examination> all = gather(own, world);
  std::int64_t found = 0;
  on_first_rank(world, [&] {
    const std::vector<std::string> lines = findings(all, tolerance);
    found = static_cast<std::int64_t>(lines.size());
    std::cout << examination_text(all, lines) << std::flush;
    if (line.has("json"))
      write_named_output(line.value("json"),
                         examination_json(all, lines, tolerance).dump_indented());
  });
  Stream stream(Device::cpu());
  world.broadcast(Tensor(&found, {1}, DType::i64, Device::cpu()), 0, stream);
  world.shutdown();
  return found == 0 ? exit_done : exit_different;
}

}  // namespace

const Command& doctor_command() {
  static const Command command = {
      .name = "doctor",
      .summary = "Examines the machines before a run: what is slow, differs or is missing",
      .arguments = "",
      .options = {{.name = "dir",
                   .value = "DIR",
                   .help = "where the run is to be: whose file system is examined; default ."},
                  {.name = "json", .value = "FILE", .help = "writes all that was found there"},
                  {.name = "rounds",
                   .value = "N",
                   .help =
                       "of each measurement, of which the best counts; default 8, a few seconds"},
                  {.name = "tolerance",
                   .value = "PERCENT",
                   .help = "how much worse than the median is told; default 10"},
                  device_option()},
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
