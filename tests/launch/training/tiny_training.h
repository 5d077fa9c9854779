// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/training/trainer.h"
#include "runtime/files/json.h"

namespace polymoe::test {

/// How many ranks, and how many of them hold a layer's experts together.
struct Layout {
  int ranks = 1;
  int expert_parallel = 1;
};

/// Writes tokens that follow a rule with exceptions, so that there is something to learn, as
/// PREFIX.bin and PREFIX.idx.
void write_tokens(const std::filesystem::path& prefix, std::int64_t count, std::int64_t vocab,
                  std::uint64_t seed);

/// A two-layer mixture of 4 experts on the tokens of `directory`/tokens, running in
/// `directory`/run: 20 steps of 8 sequences.
Config tiny_config(const std::filesystem::path& directory);

/// Trains with the ranks as threads of this process, and returns how it ended on rank 0.
/// `change` may adapt a rank's options. Throws what a rank threw.
RunEnd train(Config config, Layout layout,
             const std::function<void(int rank, TrainerOptions&)>& change = {});

/// The rows of RUN/metrics.jsonl.
std::vector<Json> metrics_of(const std::filesystem::path& run);

/// The objects of a file with one a line.
std::vector<Json> json_lines(const std::filesystem::path& path);

/// A row without what depends on time.
std::string without_times(const Json& row);

/// Every tensor of a checkpoint by name: parameters, moments, router biases.
std::map<std::string, std::vector<float>> checkpoint_contents(
    const std::filesystem::path& checkpoint);

}  // namespace polymoe::test
