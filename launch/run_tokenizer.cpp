// SPDX-License-Identifier: Apache-2.0
#include "launch/run_tokenizer.h"

#include <fmt/format.h>

#include <optional>
#include <system_error>

#include "launch/values.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_model_bytes = std::int64_t{1} << 30;
constexpr const char* built_in = "bytes";

/// What is stored as STEM.model or STEM.tokenizer, as load_tokenizer takes it.
std::optional<std::string> stored(const std::string& stem) {
  if (fs::exists(stem + ".model")) return stem + ".model";
  const std::string name_file = stem + ".tokenizer";
  if (!fs::exists(name_file)) return std::nullopt;
  const std::string text = read_file(name_file, 4096);
  const std::string name(trim(text));
  if (name != built_in)
    throw InputFileError(name_file,
                         fmt::format("names the tokenizer '{}': must be {}", name, built_in));
  return name;
}

/// Puts the tokenizer `name` at STEM.model or STEM.tokenizer, and nothing at the other one.
void store(const std::string& name, const std::string& stem) {
  std::error_code ignored;
  if (name == built_in) {
    replace_file(stem + ".tokenizer", name + "\n");
    fs::remove(stem + ".model", ignored);
    return;
  }
  if (!fs::equivalent(name, stem + ".model", ignored))
    replace_file(stem + ".model", read_file(name, most_model_bytes));
  fs::remove(stem + ".tokenizer", ignored);
}

std::optional<std::string> tokenizer_beside(fs::path file) {
  const std::string extension = file.extension().string();
  if (extension == ".bin" || extension == ".idx" || extension == ".npy") file.replace_extension();
  std::string stem = file.string();
  if (const auto found = stored(stem)) return found;
  for (const std::string part : {"-train", "-valid"}) {
    if (!stem.ends_with(part)) continue;
    stem.resize(stem.size() - part.size());
    return stored(stem);
  }
  return std::nullopt;
}

}  // namespace

void leave_tokenizer(const std::string& name, const fs::path& prefix) {
  store(name, prefix.string());
}

void remember_tokenizer(const std::vector<WeightedFile>& files, const fs::path& run) {
  for (const WeightedFile& file : files)
    if (const auto found = tokenizer_beside(file.path)) {
      store(*found, (run / "tokenizer").string());
      return;
    }
}

std::string tokenizer_name(const std::string& given, const fs::path& checkpoint) {
  if (!given.empty()) return given;
  const fs::path absolute = fs::weakly_canonical(checkpoint);
  const bool in_run = fs::exists(absolute / "manifest.json");
  const fs::path run = in_run ? absolute.parent_path().parent_path() : absolute;
  if (const auto found = stored((run / "tokenizer").string())) return *found;
  throw InvalidArgument(
      fmt::format("--tokenizer: must be given, {} remembers none (tokenizer.model)", run.string()));
}

}  // namespace polymoe
