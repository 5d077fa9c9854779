// SPDX-License-Identifier: Apache-2.0
// What the parts of a checkpoint are called, on disk and within: RUN/checkpoints/step-00000100/
// holds manifest.json, shards and the view; a tensor in it is KIND/NAME.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace polymoe {

/// Names within a run directory.
inline constexpr const char* checkpoints_folder = "checkpoints";
inline constexpr const char* manifest_name = "manifest.json";
inline constexpr const char* view_name = "view.h5";
/// Kinds of tensors, with the slash behind them; those of an optimizer's state are in its table.
inline constexpr std::string_view parameter_kind = "parameter/";
inline constexpr std::string_view router_bias_kind = "router_bias/";

/// "step-00000100".
std::string checkpoint_name(std::int64_t step);

/// "shard-00000-of-00002.h5".
std::string shard_name(int rank, int ranks);

/// "parameter/layers.3.experts.17.up.weight".
std::string name_of_kind(std::string_view kind, std::string_view name);

/// Whether the directory holds a manifest.
bool is_checkpoint(const std::filesystem::path& directory);

}  // namespace polymoe
