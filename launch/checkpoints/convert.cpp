// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/convert.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/new_directory.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// INI text with another parallel.expert; everything else stays as it was written, by whatever
/// version.
std::string with_expert_parallel(const std::string& config, int expert_parallel) {
  const std::string setting = fmt::format("expert = {}", expert_parallel);
  std::string text, section;
  bool done = false;
  std::istringstream lines(config);
  for (std::string line; std::getline(lines, line);) {
    const std::string_view content = trim(line);
    if (content.starts_with("[")) section = content;
    if (section == "[parallel]" && trim(content.substr(0, content.find('='))) == "expert") {
      line = setting;
      done = true;
    }
    text += line + "\n";
  }
  return done ? text : text + "[parallel]\n" + setting + "\n";
}

/// What a rank of the layout writes, with the dtypes that are to be stored.
std::vector<TensorPiece> pieces_of(const CheckpointReader& from, const ModelConfig& model,
                                   const RankOfLayout& place,
                                   std::optional<DType> parameters = std::nullopt) {
  // An imported model has none.
  const auto& tensors = from.manifest().tensors;
  const bool with_moments = std::any_of(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return is_optimizer_state(tensor.name);
  });
  std::vector<TensorPiece> pieces = checkpoint_pieces(model, place, with_moments);
  for (TensorPiece& piece : pieces) {
    const auto* stored = from.manifest().find(piece.name);
    if (stored == nullptr) continue;  // reading it will say so
    const bool as_told = parameters && piece.name.starts_with(parameter_kind);
    piece.data =
        Tensor(nullptr, piece.data.shape(), as_told ? *parameters : stored->dtype, Device::meta());
  }
  return pieces;
}

/// A conversion must lose nothing.
void check_all_known(const CheckpointReader& from, const fs::path& path, const ModelConfig& model,
                     int expert_parallel) {
  std::set<std::string> known;
  for (int rank = 0; rank < expert_parallel; ++rank) {
    const RankOfLayout place{
        .rank = rank, .ranks = expert_parallel, .expert_parallel = expert_parallel};
    for (const TensorPiece& piece : pieces_of(from, model, place)) known.insert(piece.name);
  }
  for (const auto& tensor : from.manifest().tensors)
    if (!known.contains(tensor.name))
      throw InputFileError(path.string(),
                           "holds the tensor " + tensor.name + ", which its model does not have");
}

}  // namespace

void convert_checkpoint(const fs::path& from, const fs::path& to, int ranks, int expert_parallel,
                        std::optional<DType> parameters, const ProgressOutput& output) {
  const CheckpointReader reader(from);
  CheckpointInfo info = reader.info();
  const Config config = parse_config(info.config, from.string(),
                                     {"--parallel.expert=" + std::to_string(expert_parallel)});
  if (ranks % expert_parallel != 0)
    throw InvalidArgument(
        fmt::format("--expert-parallel {}: must be a divisor of the number of ranks ({})",
                    expert_parallel, ranks));
  NewDirectory directory(to, "OUT");
  check_all_known(reader, from, config.model, expert_parallel);
  info.ranks = ranks;
  info.expert_parallel = expert_parallel;
  info.config = with_expert_parallel(info.config, expert_parallel);
  std::int64_t bytes = 0;
  for (const auto& tensor : reader.manifest().tensors)
    bytes += tensor.shape.elements() * static_cast<std::int64_t>(size_of(tensor.dtype));
  Progress progress(output, {.what = "converting", .total = bytes, .unit = "bytes"});
  write_checkpoint(
      directory.partial(), info,
      [&](int rank) {
        return pieces_of(reader, config.model,
                         {.rank = rank, .ranks = ranks, .expert_parallel = expert_parallel},
                         parameters);
      },
      [&](const TensorPiece& piece) {
        reader.read({piece});
        const DType stored = reader.manifest().find(piece.name)->dtype;
        progress.advance(piece.data.elements() * static_cast<std::int64_t>(size_of(stored)));
      });
  directory.complete(directory.partial() / checkpoint_name(info.step));
}

}  // namespace polymoe
