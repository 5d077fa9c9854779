// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/ini.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "runtime/dtype.h"
#include "runtime/files/json.h"
#include "runtime/log.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

using StoredTensor = CheckpointManifest::StoredTensor;

std::int64_t bytes_of(const StoredTensor& tensor) {
  return tensor.shape.elements() * static_cast<std::int64_t>(size_of(tensor.dtype));
}

/// A checkpoint on its way to the terminal; tensors are read when they are printed.
struct Inspection {
  std::filesystem::path path;
  const CheckpointReader& checkpoint;
  bool norms;

  std::optional<TensorStatistics> statistics(const StoredTensor& tensor) const {
    if (!norms) return std::nullopt;
    return statistics_of(checkpoint, tensor);
  }
};

/// What the names of tensors begin with: "parameter", "moment1", ...
std::string kind_of(const std::string& name) {
  const std::size_t slash = name.find('/');
  return slash == std::string::npos ? "other" : name.substr(0, slash);
}

/// "layers 2, hidden 32, ..." from the section of the configuration.
std::string section_text(const std::vector<Assignment>& config, const std::string& section) {
  std::string text;
  for (const auto& [key, value] : config) {
    if (!key.starts_with(section + ".")) continue;
    if (!text.empty()) text += ", ";
    text.append(key.substr(section.size() + 1)).append(" ").append(value);
  }
  return text;
}

void print_text(const Inspection& inspection) {
  const CheckpointManifest& manifest = inspection.checkpoint.manifest();
  const CheckpointInfo& info = manifest.info;
  const auto config = parse_ini(info.config, inspection.path.string());
  std::int64_t file_bytes = 0;
  for (const auto& file : manifest.all_files()) file_bytes += file.bytes;
  std::cout << fmt::format("checkpoint  {}\n", inspection.path.string())
            << fmt::format("format      version {}\n", manifest.version)
            << fmt::format("step        {}\n", with_separators(info.step))
            << fmt::format("tokens      {}\n", with_separators(info.tokens))
            << fmt::format("layout      {} rank{}, expert parallelism {}\n", info.ranks,
                           info.ranks == 1 ? "" : "s", info.expert_parallel)
            << fmt::format("files       {} shards{}, {} bytes\n", manifest.files.size(),
                           manifest.view ? " and view.h5" : "", with_separators(file_bytes))
            << fmt::format("model       {}\n", section_text(config, "model"))
            << fmt::format("moe         {}\n", section_text(config, "moe"));
  struct Sum {
    std::int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Sum> sums;
  std::size_t name_width = 6, shape_width = 5;
  for (const StoredTensor& tensor : manifest.tensors) {
    Sum& sum = sums[kind_of(tensor.name)];
    ++sum.tensors;
    sum.elements += tensor.shape.elements();
    sum.bytes += bytes_of(tensor);
    name_width = std::max(name_width, tensor.name.size());
    shape_width = std::max(shape_width, to_string(tensor.shape).size());
  }
  for (const auto& [kind, sum] : sums)
    std::cout << fmt::format("{:<11} {} tensors, {} elements, {} bytes\n", kind, sum.tensors,
                             with_separators(sum.elements), with_separators(sum.bytes));
  std::cout << fmt::format("\n{:<{}}  {:<{}}  dtype  {:>15}  pieces{}\n", "tensor", name_width,
                           "shape", shape_width, "bytes", inspection.norms ? "          norm" : "");
  for (const StoredTensor& tensor : manifest.tensors) {
    std::cout << fmt::format("{:<{}}  {:<{}}  {:<5}  {:>15}  {:>6}", tensor.name, name_width,
                             to_string(tensor.shape), shape_width, name_of(tensor.dtype),
                             with_separators(bytes_of(tensor)), tensor.pieces.size());
    if (const auto statistics = inspection.statistics(tensor)) {
      std::cout << fmt::format("  {:>12.6g}", statistics->norm);
      if (statistics->not_finite > 0)
        std::cout << fmt::format(" and {} elements that are not finite", statistics->not_finite);
    }
    std::cout << '\n';
  }
}

Json as_json(const Inspection& inspection) {
  const CheckpointManifest& manifest = inspection.checkpoint.manifest();
  const CheckpointInfo& info = manifest.info;
  Json config = Json::object();
  for (const auto& [key, value] : parse_ini(info.config, inspection.path.string()))
    config.set(key, value);
  Json files = Json::array();
  for (const auto& file : manifest.all_files())
    files.add(
        Json::object().set("name", file.name).set("bytes", file.bytes).set("xxh3", file.xxh3));
  Json tensors = Json::array();
  for (const StoredTensor& tensor : manifest.tensors) {
    Json shape = Json::array();
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.add(tensor.shape[i]);
    Json row = Json::object();
    row.set("name", tensor.name)
        .set("shape", std::move(shape))
        .set("dtype", name_of(tensor.dtype))
        .set("bytes", bytes_of(tensor))
        .set("pieces", tensor.pieces.size());
    if (const auto statistics = inspection.statistics(tensor))
      row.set("norm", statistics->norm)
          .set("largest", statistics->largest)
          .set("not_finite", statistics->not_finite);
    tensors.add(std::move(row));
  }
  return std::move(
      Json::object()
          .set("checkpoint", inspection.path.string())
          .set("version", manifest.version)
          .set("step", info.step)
          .set("tokens", info.tokens)
          .set("layout",
               Json::object().set("ranks", info.ranks).set("expert_parallel", info.expert_parallel))
          .set("config", std::move(config))
          .set("state", parse_json(info.state, "state"))
          .set("files", std::move(files))
          .set("tensors", std::move(tensors)));
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_inspect_command().parse(args);
  std::vector<std::string> notes;
  const std::filesystem::path path = resolve_checkpoint(line.positional().front(), notes);
  Log log(Log::alone);
  for (const std::string& note : notes) log.warning(note);
  const CheckpointReader checkpoint(path);
  const Inspection inspection{
      .path = path, .checkpoint = checkpoint, .norms = !line.has("no-norms")};
  if (line.has("json")) {
    std::cout << as_json(inspection).dump_indented();
  } else {
    print_text(inspection);
  }
  return exit_done;
}

}  // namespace

const Command& checkpoint_inspect_command() {
  static const Command command = {
      .name = "checkpoint inspect",
      .summary = "Prints step, model and layout of a checkpoint, and its tensors",
      .arguments = "DIR",
      .positional = 1,
      .options = {{"json", "", "as JSON"},
                  {"no-norms", "", "reads the manifest only, which is quick"}},
      .run = run};
  return command;
}

}  // namespace polymoe
