// SPDX-License-Identifier: Apache-2.0
#include "launch/data/run_tokenizer.h"

#include <fmt/format.h>

#include <optional>
#include <system_error>

#include "launch/config/values.h"
#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_model_bytes = std::int64_t{1} << 30;
constexpr const char* built_in = "bytes";

/// Where a tokenizer lies: a sentencepiece model, or else the name of a built-in one.
struct Place {
  fs::path model, name;
};

Place beside(const fs::path& stem) {
  return {stem.string() + ".model", stem.string() + ".tokenizer"};
}
Place in_run(const fs::path& run) { return {run / "tokenizer.model", run / "tokenizer"}; }

/// As load_tokenizer takes it.
std::optional<std::string> stored(const Place& place) {
  if (fs::exists(place.model)) return place.model.string();
  if (!fs::exists(place.name)) return std::nullopt;
  const std::string text = read_file(place.name, 4096);
  const std::string name(trim(text));
  if (name != built_in)
    throw InputFileError(place.name.string(),
                         fmt::format("names the tokenizer '{}': must be {}", name, built_in));
  return name;
}

/// Leaves nothing at the other path of the place.
void store(const std::string& name, const Place& place) {
  std::error_code ignored;
  if (name == built_in) {
    replace_file(place.name, name + "\n");
    fs::remove(place.model, ignored);
    return;
  }
  if (!fs::equivalent(name, place.model, ignored))
    replace_file(place.model, read_file(name, most_model_bytes));
  fs::remove(place.name, ignored);
}

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

}  // namespace

void leave_tokenizer(const std::string& name, const fs::path& prefix) {
  store(name, beside(prefix));
}

void remember_tokenizer(const std::vector<WeightedFile>& files, const fs::path& run) {
  for (const WeightedFile& file : files)
    if (const auto found = tokenizer_beside(file.path)) {
      store(*found, in_run(run));
      return;
    }
}

std::string tokenizer_name(const std::string& given, const fs::path& checkpoint) {
  if (!given.empty()) return given;
  const fs::path absolute = fs::weakly_canonical(checkpoint);
  const bool is_checkpoint = fs::exists(absolute / "manifest.json");
  const fs::path run = is_checkpoint ? absolute.parent_path().parent_path() : absolute;
  if (const auto found = stored(in_run(run))) return *found;
  throw InvalidArgument(
      fmt::format("--tokenizer: must be given, {} remembers none (tokenizer.model)", run.string()));
}

}  // namespace polymoe
