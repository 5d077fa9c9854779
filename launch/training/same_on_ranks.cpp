// SPDX-License-Identifier: Apache-2.0
#include "launch/training/same_on_ranks.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/file_identity.h"
#include "launch/machine/version.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/mpi/environment.h"
#include "parallel/communication/packed.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

/// "key = value" of each line below its section's name.
void add_configuration(const Config& config, RankFacts& facts) {
  std::istringstream lines(to_ini(config));
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("[")) section = line.substr(1, line.find(']') - 1);
    const std::size_t sign = line.find(" =");
    if (sign == std::string::npos) continue;
    const std::string key = section + "." + line.substr(0, sign);
    // How many threads compute is each machine's own matter.
    if (key != "run.threads") facts.emplace_back(key, line.substr(std::min(line.size(), sign + 3)));
  }
}

void add_files(const std::vector<WeightedFile>& files, int token_bytes, RankFacts& facts) {
  for (const WeightedFile& file : files) {
    const TokenFile opened = TokenFile::open(file.path, token_bytes);
    facts.emplace_back("tokens of " + file.path, std::to_string(opened.tokens()));
    facts.emplace_back("bytes of " + file.path,
                       std::to_string(std::filesystem::file_size(opened.path())));
    facts.emplace_back("content of " + file.path, FileIdentity::of(opened, file.path).hash);
  }
}

/// Keys and values, as ranks send them to each other.
std::string pack(const RankFacts& facts) {
  Packer packer;
  for (const auto& [key, value] : facts) packer.text(key).text(value);
  return packer.take();
}

RankFacts unpack(const std::string& packed) {
  RankFacts facts;
  for (Unpacker unpacker(packed); !unpacker.done();) {
    std::string key = unpacker.text();
    facts.emplace_back(std::move(key), unpacker.text());
  }
  return facts;
}

}  // namespace

RankFacts facts_of_rank(const Config& config, Device device) {
  RankFacts facts = {{"polymoe", version() + " " + git_revision()},
                     {"MPI", MpiEnvironment::library_version()},
                     {"device", device.type == DeviceType::cuda ? "cuda" : "cpu"}};
  for (const auto& [name, number] : library_versions()) facts.emplace_back(name, number);
  add_configuration(config, facts);
  add_files(config.data.train, config.data.token_bytes, facts);
  for (const DataStage& stage : config.data.stages)
    add_files(stage.files, config.data.token_bytes, facts);
  add_files(config.data.valid, config.data.token_bytes, facts);
  return facts;
}

void check_same_as_first(const RankFacts& own, Communicator& world) {
  const RankFacts first = unpack(on_first_rank(world, [&] { return pack(own); }));
  const auto [here, there] = std::ranges::mismatch(own, first);
  if (here == own.end() && there == first.end()) return;
  if (here != own.end() && there != first.end() && here->first == there->first)
    throw InvalidArgument(
        fmt::format("ranks disagree: {} is '{}' on rank {} and '{}' on rank 0; every rank must be "
                    "started alike",
                    here->first, here->second, world.rank(), there->second));
  throw InvalidArgument(fmt::format(
      "ranks disagree: rank {} has {}, rank 0 has {}; every rank must be started alike",
      world.rank(), here == own.end() ? "nothing more" : here->first + " = " + here->second,
      there == first.end() ? "nothing more" : there->first + " = " + there->second));
}

}  // namespace polymoe
