// SPDX-License-Identifier: Apache-2.0
#include "launch/data/run_tokenizer.h"

#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_huggingface.h"
#include "launch/data/tokenizer_identity.h"
#include "parallel/checkpoint/names.h"
#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_model_bytes = std::int64_t{1} << 30;
constexpr const char* built_in = "bytes";

/// Where a tokenizer lies: a sentencepiece model, a tokenizer.json, or else the name of a built-in
/// one.
struct Place {
  fs::path model, json, name;
};

Place beside(const fs::path& stem) {
  const std::string text = stem.string();
  return {text + ".model", text + ".tokenizer.json", text + ".tokenizer"};
}
Place in_run(const fs::path& run) {
  return {run / "tokenizer.model", run / "tokenizer.json", run / "tokenizer"};
}

/// As load_tokenizer takes it.
std::optional<std::string> stored(const Place& place) {
  if (fs::exists(place.json)) return place.json.string();
  if (fs::exists(place.model)) return place.model.string();
  if (!fs::exists(place.name)) return std::nullopt;
  const std::string text = read_file(place.name, 4096);
  std::string name(trim(text));
  if (name != built_in)
    throw InputFileError(place.name.string(),
                         fmt::format("names the tokenizer '{}': must be {}", name, built_in));
  return name;
}

/// Copies a tokenizer.json and the configuration beside it, where it has one.
void copy_huggingface(const std::string& from, const fs::path& to) {
  std::error_code ignored;
  if (fs::equivalent(from, to, ignored)) return;
  replace_file(to, read_file(from, most_model_bytes));
  const std::string config = huggingface_config_beside(from);
  const std::string config_copy = huggingface_config_beside(to.string());
  if (!config.empty() && fs::exists(config))
    replace_file(config_copy, read_huggingface_config(config));
  else
    fs::remove(config_copy, ignored);
}

/// Leaves nothing at the other paths of the place.
void store(const std::string& name, const Place& place) {
  std::error_code ignored;
  const auto keep_only = [&](const fs::path& kept) {
    for (const fs::path& path : {place.model, place.json, place.name})
      if (path != kept) fs::remove(path, ignored);
  };
  if (name == built_in) {
    replace_file(place.name, name + "\n");
    keep_only(place.name);
  } else if (is_huggingface_tokenizer(name)) {
    copy_huggingface(name, place.json);
    keep_only(place.json);
  } else {
    if (!fs::equivalent(name, place.model, ignored))
      replace_file(place.model, read_file(name, most_model_bytes));
    keep_only(place.model);
  }
}

}  // namespace

std::optional<std::string> tokenizer_beside(fs::path file) {
  const std::string extension = file.extension().string();
  if (extension == ".bin" || extension == ".idx" || extension == ".npy") file.replace_extension();
  std::string stem = file.string();
  if (const auto found = stored(beside(stem))) return found;
  for (const std::string part : {"-train", "-valid"}) {
    if (!stem.ends_with(part)) continue;
    stem.resize(stem.size() - part.size());
    return stored(beside(stem));
  }
  return std::nullopt;
}

void leave_tokenizer(const std::string& name, const fs::path& prefix) {
  store(name, beside(prefix));
}

void remember_tokenizer(const std::vector<WeightedFile>& files, const fs::path& run) {
  for (const WeightedFile& file : files) {
    const auto found = tokenizer_beside(file.path);
    if (!found) continue;
    if (const auto kept = stored(in_run(run))) {
      const TokenizerIdentity mine = identity_of_tokenizer(*kept);
      const TokenizerIdentity theirs = identity_of_tokenizer(*found);
      if (!mine.same_as(theirs))
        throw InputFileError(file.path,
                             fmt::format("holds tokens of {}, but the run {} has checkpoints that "
                                         "speak by {}; start in a new run.dir",
                                         theirs.text(), run.string(), mine.text()));
      return;
    }
    store(*found, in_run(run));
    return;
  }
}

std::optional<std::string> remembered_tokenizer(const fs::path& checkpoint) {
  const fs::path absolute = fs::weakly_canonical(checkpoint);
  return stored(in_run(is_checkpoint(absolute) ? absolute.parent_path().parent_path() : absolute));
}

std::string tokenizer_name(const std::string& given, const fs::path& checkpoint) {
  if (!given.empty()) return given;
  if (const auto found = remembered_tokenizer(checkpoint)) return *found;
  throw InvalidArgument(
      fmt::format("--tokenizer: must be given, {} remembers none (tokenizer.json, "
                  "tokenizer.model)",
                  checkpoint.string()));
}

std::unique_ptr<Tokenizer> load_run_tokenizer(const std::string& given, const fs::path& checkpoint,
                                              std::int64_t vocab) {
  const std::string name = tokenizer_name(given, checkpoint);
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(name);
  if (tokenizer->vocab() > vocab)
    throw InputFileError(name, fmt::format("the tokenizer has {} tokens; the model has model.vocab "
                                           "= {}",
                                           tokenizer->vocab(), vocab));
  return tokenizer;
}

}  // namespace polymoe
