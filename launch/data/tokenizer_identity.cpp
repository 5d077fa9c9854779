// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer_identity.h"

#include <fmt/core.h>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "launch/data/run_tokenizer.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

fs::path description_path(fs::path file) {
  const std::string extension = file.extension().string();
  if (extension == ".bin" || extension == ".idx" || extension == ".npy") file.replace_extension();
  return file.string() + ".tokens.json";
}

std::optional<Json> description_of(const fs::path& file) {
  constexpr std::int64_t most_bytes = 1 << 16;
  const fs::path path = description_path(file);
  if (!fs::exists(path)) return std::nullopt;
  return parse_json(read_file(path, most_bytes), path.string());
}

template <class Read>
auto read_description(const fs::path& file, const Json& json, Read read) {
  try {
    return read(json);
  } catch (const InvalidArgument& error) {
    throw InputFileError(description_path(file).string(), error.what());
  }
}

}  // namespace

std::string TokenizerIdentity::text() const {
  const std::string digest = hash.substr(0, 8);
  return vocab > 0 ? fmt::format("{} ({} ids, {})", name, vocab, digest)
                   : fmt::format("{} ({})", name, digest);
}

Json TokenizerIdentity::to_json() const {
  Json json = Json::object();
  json.set("name", name).set("hash", hash).set("vocab", vocab);
  return json;
}

TokenizerIdentity TokenizerIdentity::from_json(const Json& json) {
  return {.name = json.at("name").as_string(),
          .hash = json.at("hash").as_string(),
          .vocab = json.at("vocab").as_integer(0)};
}

TokenizerIdentity identity_of_tokenizer(const std::string& name) {
  if (name == "bytes") return {.name = name, .hash = xxh3_of(name), .vocab = 257};
  return {.name = fs::path(name).filename().string(), .hash = xxh3_of_file(name), .vocab = 0};
}

void describe_tokens(const TokensDescription& description, const fs::path& prefix) {
  Json json = Json::object();
  json.set("tokenizer", description.tokenizer.to_json())
      .set("end_of_document", description.end_of_document)
      .set("documents", description.documents)
      .set("tokens", description.tokens);
  replace_file(prefix.string() + ".tokens.json", json.dump_indented());
}

std::optional<TokenizerIdentity> tokenizer_of_tokens(const fs::path& file) {
  if (const auto json = description_of(file))
    return read_description(file, *json, [](const Json& read) {
      return TokenizerIdentity::from_json(read.at("tokenizer"));
    });
  if (const auto name = tokenizer_beside(file)) return identity_of_tokenizer(*name);
  return std::nullopt;
}

std::optional<std::int64_t> end_of_document_of_tokens(const fs::path& file) {
  const auto json = description_of(file);
  if (!json) return std::nullopt;
  return read_description(
      file, *json, [](const Json& read) { return read.at("end_of_document").as_integer(0); });
}

}  // namespace polymoe
