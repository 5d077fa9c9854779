// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/examining/layout_difference.h"
#include "launch/examining/layout_steps.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/node_threads.h"
#include "launch/step/memory_plan.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/system.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

struct Layout {
  std::string text;  // "4x2", or "8x8/4"
  int ranks = 1;
  int expert = 1;
  int node = 1;  // parallel.expert_node
};

std::optional<int> positive(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > 4096)
    return std::nullopt;
  return value;
}

std::vector<Layout> layouts_of(const std::string& text) {
  std::vector<Layout> layouts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string one = text.substr(at, end - at);
    const std::size_t sign = one.find('x');
    const auto ranks = positive(one.substr(0, std::min(sign, one.size())));
    const std::string behind = sign == std::string::npos ? "" : one.substr(sign + 1);
    const std::size_t slash = std::min(behind.find('/'), behind.size());
    const auto expert = positive(behind.substr(0, slash));
    const auto node = slash == behind.size() ? 1 : positive(behind.substr(slash + 1));
    if (!ranks || !expert || !node)
      throw InvalidArgument(
          fmt::format("--layouts {}: '{}': must be RANKSxEXPERT or "
                      "RANKSxEXPERT/NODE, numbers from 1 on, as in 1x1,2x2,4x4/2",
                      text, one));
    layouts.push_back({one, *ranks, *expert, *node});
    at = end + 1;
  }
  if (layouts.size() < 2)
    throw InvalidArgument("--layouts " + text +
                          ": must be two or more; the first is compared with");
  return layouts;
}

Config config_of(Config config, const Layout& layout) {
  config.parallel.expert = layout.expert;
  config.parallel.expert_node = layout.node;
  return config;
}

/// Everything that can be refused, at once.
void check(const Config& config, const std::vector<Layout>& layouts, int ranks_started) {
  Violations found;
  for (const Layout& layout : layouts) {
    const Config own = config_of(config, layout);
    for (const std::string& line : layout_violations(own, layout.ranks))
      found.add("--layouts " + layout.text + ": " + line);
    if (own.model.moe.experts % layout.expert != 0)
      found.add(fmt::format("--layouts {}: {} does not divide moe.experts = {}", layout.text,
                            layout.expert, own.model.moe.experts));
    if (layout.expert % layout.node != 0)
      found.add(fmt::format("--layouts {}: nodes of {} ranks do not divide its {}", layout.text,
                            layout.node, layout.expert));
    if (ranks_started > 1 && layout.ranks > ranks_started)
      found.add(fmt::format("--layouts {}: {} ranks were started; without mpirun ranks are threads",
                            layout.text, ranks_started));
  }
  refuse_violations("layouts", found.take());
}

/// The first layout's steps are kept: what they take must be there.
void check_memory(const Config& config, std::int64_t steps, Device device) {
  const MemoryPlan plan = plan_memory(config, {.ranks = 1, .threads = 1, .backend = device.type});
  const auto kept = static_cast<double>(plan.total_parameters) * 2.0 * sizeof(float) *
                    static_cast<double>(steps + 1);
  const auto usable = static_cast<double>(usable_memory_bytes());
  if (kept > usable / 2)
    throw InvalidArgument(fmt::format(
        "--steps {}: gradients and parameters of as many steps take {:.1f} GiB, more than half of "
        "the memory; fewer steps, or a smaller model of the same kind",
        steps, kept / (1024.0 * 1024 * 1024)));
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = verify_layout_command().parse(args);
  Config config = read_config(line.value("config"), line.overrides());
  const std::vector<Layout> layouts = layouts_of(line.value("layouts"));
  const std::optional<int> steps = positive(line.value("steps", "3"));
  if (!steps) throw InvalidArgument("--steps " + line.value("steps") + ": must be from 1 to 4096");
  config.checkpoint.background = false;  // none is written
  config.run.share_gpus = true;
  check(config, layouts, context.ranks);
  const NodeRank node{.rank = context.rank_on_node, .ranks = context.ranks_on_node};
  const Device device = choose_device(config.run, node);
  check_memory(config_of(config, {}), *steps, device);
  const DType dtype = compute_dtype(config.train.precision, device.backend());
  const int share = allowed_threads(config.run.threads > 0 ? config.run.threads
                                                           : threads_per_rank(*context.world));
  // Ranks without a part in a layout wait for those that have one.
  constexpr double a_day = 86400.0;
  const auto all = context.make_world(a_day);

  std::vector<LayoutStep> reference;
  bool beyond = false;
  for (const Layout& layout : layouts) {
    const Config own = config_of(config, layout);
    std::vector<StepDifference> differences;
    const bool first = &layout == &layouts.front();
    const auto show = [&](const LayoutStep& step) {
      if (first)
        reference.push_back(step);
      else
        differences.push_back(
            difference_of(reference[static_cast<std::size_t>(step.step - 1)], step, dtype));
    };
    if (context.ranks == 1) {
      run_layout_on_threads(
          own, *steps, layout.ranks,
          [&](int rank) {
            const NodeRank place{.rank = rank, .ranks = layout.ranks};
            const Device its = choose_device(own.run, place);
            return LayoutRank{.device = its,
                              .device_sharers = device_sharers(its, place),
                              .threads = std::max(1, share / layout.ranks)};
          },
          show);
    } else {
      const bool takes_part = context.rank < layout.ranks;
      auto part = context.make_world(config.run.timeout)->split(takes_part ? 0 : 1);
      if (takes_part)
        run_layout(
            own, *steps, std::move(part),
            {.device = device, .device_sharers = device_sharers(device, node), .threads = share},
            show);
      all->barrier();
    }
    if (first || context.rank != 0) continue;
    std::cout << difference_text(layout.text, layouts.front().text, differences,
                                 dtype == DType::bf16 && config.model.moe.experts > 0)
              << "\n"
              << std::flush;
    for (const StepDifference& step : differences) beyond = beyond || step.beyond.has_value();
  }
  Stream stream(Device::cpu());
  std::int64_t differs = beyond ? 1 : 0;
  all->broadcast(Tensor(&differs, {1}, DType::i64, Device::cpu()), 0, stream);
  all->shutdown();
  return differs == 0 ? exit_done : exit_different;
}

}  // namespace

const Command& verify_layout_command() {
  static const Command command = {
      .name = "verify-layout",
      .summary = "Trains a few steps on several layouts and compares them",
      .arguments = "",
      .options = {{.name = "config", .value = "FILE", .help = "the model and its batch"},
                  {.name = "layouts",
                   .value = "LIST",
                   .help =
                       "RANKSxEXPERT,...: ranks and expert-parallel size of each, RANKSxEXPERT/N "
                       "with parallel.expert_node = N; the first is what the others are compared "
                       "with. Ranks are threads, or those that mpirun started",
                   .required = true},
                  {.name = "steps", .value = "K", .help = "default 3"}},
      .overrides = true,
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
