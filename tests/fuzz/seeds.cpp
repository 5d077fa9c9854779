// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "parallel/checkpoint/names.h"
#include "runtime/buffer.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/files/safetensors.h"
#include "tests/fuzz/target_files.h"
#include "tests/fuzz/targets.h"

namespace polymoe::fuzz {
namespace {

namespace fs = std::filesystem;
using test::read_bytes;

const std::map<std::string, Target>& targets() {
  static const std::map<std::string, Target> by_name = {{"configuration", configuration},
                                                        {"json", json},
                                                        {"manifest", manifest},
                                                        {"safetensors", safetensors},
                                                        {"safetensors_index", safetensors_index},
                                                        {"shard", shard},
                                                        {"shard_hash", shard_hash},
                                                        {"tokens", tokens}};
  return by_name;
}

std::vector<std::string> configurations() {
  std::vector<std::string> texts = {to_ini(Config{})};
  for (const char* name : {"bench-moe", "dense-1b", "moe-7b", "quickstart"})
    texts.push_back(read_bytes(fs::path(POLYMOE_CONFIGS) / (std::string(name) + ".ini")));
  return texts;
}

std::vector<std::string> shards() {
  const fs::path checkpoint = save_sample(scratch() / "seed", 1);
  return {read_bytes(checkpoint / shard_name(0, 1))};
}

std::vector<std::string> manifests() {
  std::vector<std::string> texts;
  for (const int ranks : {1, 2})
    texts.push_back(read_bytes(save_sample(scratch() / "seed", ranks) / manifest_name));
  return texts;
}

/// Two files with three tensors and their index.
std::vector<std::string> safetensors_model(bool index) {
  const fs::path directory = scratch() / "seed-model";
  fs::create_directories(directory);
  SafetensorsWriter writer(directory, {{"a.weight", {3, 4}}, {"b.weight", {5}}, {"c", {2, 2}}},
                           {.dtype = SafetensorsDType::bf16, .max_file_bytes = 36});
  for (const auto& [name, elements] :
       std::map<std::string, std::int64_t>{{"a.weight", 12}, {"b.weight", 5}, {"c", 4}}) {
    const OwnedTensor values({elements}, DType::f32, Device::cpu());
    writer.append(name, *values);
  }
  writer.finish();
  if (index) return {read_bytes(directory / SafetensorsModel::index_name)};
  std::vector<std::string> files;
  for (const std::string& name : writer.files())
    if (name != SafetensorsModel::index_name) files.push_back(read_bytes(directory / name));
  return files;
}

std::vector<std::string> token_files() {
  const fs::path prefix = scratch() / "seed-tokens";
  MegatronWriter writer(prefix, 500);
  for (std::int32_t document = 1; document < 6; ++document)
    writer.add(std::vector<std::int32_t>(static_cast<std::size_t>(document), 17 * document));
  writer.finish();
  const std::string raw = read_bytes(fs::path(prefix) += ".bin");
  const std::string index = read_bytes(fs::path(prefix) += ".idx");
  std::vector<std::int32_t> header(256, 0);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<std::int32_t>(raw.size() / 2);
  const std::string llm_c = std::string(reinterpret_cast<const char*>(header.data()), 1024) + raw;
  return {tokens_input(TokensForm::megatron, raw, index), tokens_input(TokensForm::bin, llm_c),
          tokens_input(TokensForm::npy_2, raw), tokens_input(TokensForm::npy_4, raw + raw)};
}

}  // namespace

const std::vector<std::string>& target_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, target] : targets()) all.push_back(name);
    return all;
  }();
  return names;
}

Target find_target(const std::string& name) { return targets().at(name); }

std::vector<std::string> seeds(const std::string& target) {
  if (target == "configuration") return configurations();
  if (target == "manifest") return manifests();
  if (target == "safetensors") return safetensors_model(false);
  if (target == "safetensors_index") return safetensors_model(true);
  if (target == "shard" || target == "shard_hash") return shards();
  if (target == "tokens") return token_files();
  return {R"({"a":[1,-2.5e3,"\u00e9\ud83d\ude00",null,true,{"b":18446744073709551615}],"c":""})",
          "[]", "-9223372036854775808", R"("text")"};
}

}  // namespace polymoe::fuzz
