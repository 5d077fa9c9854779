// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/named_inputs.h"

#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "launch/data/run_tokenizer.h"
#include "parallel/checkpoint/names.h"
#include "runtime/files/named_output.h"

namespace polymoe {

namespace fs = std::filesystem;

void add_run(std::vector<NamedPath>& inputs, const std::string& argument, const fs::path& path) {
  std::error_code error;
  const fs::path place = fs::weakly_canonical(path, error);
  fs::path run = place;
  if (is_checkpoint(place)) {
    inputs.push_back({argument, place});
    if (place.parent_path().filename() != checkpoints_folder) return;
    run = place.parent_path().parent_path();
  }
  for (const char* name :
       {"config.ini", "environment.json", "metrics.jsonl", "experts.jsonl", "run.log", "lock",
        "study.json", "cell.ini", "tokenizer", "tokenizer.model", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "tensorboard", "windows", "ledger"})
    inputs.push_back({argument, run / name});
  inputs.push_back({argument, run / checkpoints_folder});
}

void add_tokens(std::vector<NamedPath>& inputs, const std::string& argument, const fs::path& path) {
  inputs.push_back({argument, path});
  std::string stem = path.string();
  for (const std::string end : {".bin", ".idx", ".npy"})
    if (stem.ends_with(end)) {
      stem.resize(stem.size() - end.size());
      break;
    }
  for (const char* end : {".bin", ".idx", ".npy", ".mask.bin", ".tokens.json"})
    inputs.push_back({argument, stem + end});
  std::error_code error;
  if (!fs::exists(stem + ".bin", error) && !fs::exists(stem + ".npy", error)) return;
  // The name of a built-in one leads to no file.
  if (const auto tokenizer = tokenizer_beside(path)) inputs.push_back({argument, *tokenizer});
}

}  // namespace polymoe
