// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/manifest.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/checkpoint/names.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "runtime/files/json.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr const char* format_name = "polymoe checkpoint";
constexpr std::string_view hash_key = ",\n  \"xxh3\": \"";
constexpr std::size_t hash_digits = 32;

Json to_json(const Shape& shape) {
  Json extents = Json::array();
  for (int i = 0; i < shape.rank(); ++i) extents.add(shape[i]);
  return extents;
}

Json to_json(const CheckpointManifest::File& file) {
  return Json::object().set("name", file.name).set("bytes", file.bytes).set("xxh3", file.xxh3);
}

/// A file that must have that name.
CheckpointManifest::File file_from_json(const Json& json, const std::string& name) {
  if (json.at("name").as_string() != name) {
    throw InvalidArgument("names the file " + json.at("name").dump() + ", expected " + name);
  }
  return {name, json.at("bytes").as_integer(0), json.at("xxh3").as_string()};
}

Json to_json(const CheckpointManifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  Json files = Json::array();
  for (const auto& file : manifest.files) files.add(to_json(file));
  Json tensors = Json::array();
  for (const auto& tensor : manifest.tensors) {
    Json pieces = Json::array();
    for (const auto& piece : tensor.pieces) {
      Json entry = Json::object();
      entry.set("file", piece.file)
          .set("dataset", piece.dataset)
          .set("begin", piece.begin)
          .set("count", piece.count);
      if (manifest.version >= CheckpointManifest::first_version_with_offsets)
        entry.set("offset", piece.offset);
      pieces.add(std::move(entry));
    }
    tensors.add(Json::object()
                    .set("name", tensor.name)
                    .set("shape", to_json(tensor.shape))
                    .set("dtype", name_of(tensor.dtype))
                    .set("pieces", std::move(pieces)));
  }
  Json state = info.state.empty() ? Json::object() : parse_json(info.state, "state");
  if (!state.is_object()) {
    throw InvalidArgument("the state of a checkpoint is " + state.dump() + "; expected an object");
  }
  Json json = Json::object();
  json.set("format", format_name)
      .set("version", manifest.version)
      .set("step", info.step)
      .set("tokens", info.tokens)
      .set("layout",
           Json::object().set("ranks", info.ranks).set("expert_parallel", info.expert_parallel))
      .set("config", info.config)
      .set("state", std::move(state))
      .set("files", std::move(files));
  if (manifest.view) json.set("view", to_json(*manifest.view));
  return std::move(json.set("tensors", std::move(tensors)));
}

/// What is read by offsets lies in the file.
void check_within(const CheckpointManifest::File& file, const CheckpointManifest::Piece& piece,
                  DType dtype) {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  if (piece.offset > file.bytes || piece.count > (file.bytes - piece.offset) / size) {
    throw InvalidArgument("has the piece " + piece.dataset + " of " + std::to_string(piece.count) +
                          " " + name_of(dtype) + " at byte " + std::to_string(piece.offset) +
                          " of " + file.name + ", which has " + std::to_string(file.bytes));
  }
}

/// Throws InvalidArgument on anything that to_json() would not make.
CheckpointManifest from_json(const Json& json) {
  constexpr std::int64_t many = std::numeric_limits<std::int64_t>::max();
  constexpr int many_ranks = 1'000'000;
  if (json.at("format").as_string() != format_name) {
    throw InvalidArgument("is no polymoe checkpoint: its format is " + json.at("format").dump());
  }
  const std::int64_t version = json.at("version").as_integer(1);
  if (version > CheckpointManifest::newest_version) {
    throw InvalidArgument("has format version " + std::to_string(version) +
                          "; this program reads up to " +
                          std::to_string(CheckpointManifest::newest_version));
  }
  CheckpointManifest manifest;
  manifest.version = static_cast<int>(version);
  CheckpointInfo& info = manifest.info;
  info.step = json.at("step").as_integer(0);
  info.tokens = json.at("tokens").as_integer(0);
  const Json& layout = json.at("layout");
  info.ranks = static_cast<int>(layout.at("ranks").as_integer(1, many_ranks));
  info.expert_parallel = static_cast<int>(layout.at("expert_parallel").as_integer(1, many_ranks));
  info.config = json.at("config").as_string();
  info.state = json.at("state").dump();
  for (const Json& file : json.at("files").items()) {
    const int rank = static_cast<int>(manifest.files.size());
    manifest.files.push_back(file_from_json(file, shard_name(rank, info.ranks)));
  }
  if (manifest.files.size() != static_cast<std::size_t>(info.ranks)) {
    throw InvalidArgument("names " + std::to_string(manifest.files.size()) + " files of " +
                          std::to_string(info.ranks) + " ranks");
  }
  if (version >= 2) {
    manifest.view = file_from_json(json.at("view"), view_name);
  }
  const bool has_offsets = version >= CheckpointManifest::first_version_with_offsets;
  for (const Json& tensor : json.at("tensors").items()) {
    CheckpointManifest::StoredTensor stored;
    stored.name = tensor.at("name").as_string();
    std::vector<std::int64_t> extents;
    for (const Json& extent : tensor.at("shape").items()) extents.push_back(extent.as_integer(0));
    stored.shape = shape_of(extents);
    stored.dtype = stored_dtype(tensor.at("dtype").as_string());
    if (stored.dtype == DType::bf16 && !has_offsets) {
      throw InvalidArgument("has the dtype bf16 in format version " + std::to_string(version));
    }
    for (const Json& entry : tensor.at("pieces").items()) {
      CheckpointManifest::Piece piece{.file = entry.at("file").as_integer(0, info.ranks - 1),
                                      .dataset = entry.at("dataset").as_string(),
                                      .begin = entry.at("begin").as_integer(0, many),
                                      .count = entry.at("count").as_integer(1, many)};
      if (has_offsets) {
        piece.offset = entry.at("offset").as_integer(0, many);
        check_within(manifest.files[static_cast<std::size_t>(piece.file)], piece, stored.dtype);
      }
      stored.pieces.push_back(std::move(piece));
    }
    if (!manifest.tensors.empty() && !(manifest.tensors.back().name < stored.name)) {
      throw InvalidArgument("the tensors are not in order at " + stored.name);
    }
    manifest.tensors.push_back(std::move(stored));
  }
  manifest.check_cover();
  return manifest;
}

}  // namespace

DType stored_dtype(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw InvalidArgument("dtype \"" + std::string(name) + "\"; expected f32, f64, bf16, i32 or i64");
}

Shape shape_of(const std::vector<std::int64_t>& extents) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : extents) {
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements)) {
      throw InvalidArgument("a shape with an extent of " + std::to_string(extent));
    }
  }
  switch (extents.size()) {
    case 0:
      return {};
    case 1:
      return {extents[0]};
    case 2:
      return {extents[0], extents[1]};
    case 3:
      return {extents[0], extents[1], extents[2]};
    case 4:
      return {extents[0], extents[1], extents[2], extents[3]};
    default:
      throw InvalidArgument("a shape of " + std::to_string(extents.size()) +
                            " dimensions; at most 4 are allowed");
  }
}

std::vector<CheckpointManifest::File> CheckpointManifest::all_files() const {
  std::vector<File> all = files;
  if (view) all.push_back(*view);
  return all;
}

const CheckpointManifest::StoredTensor* CheckpointManifest::find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const StoredTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found == tensors.end() || found->name != name ? nullptr : &*found;
}

void CheckpointManifest::check_cover() const {
  for (const StoredTensor& tensor : tensors) {
    const std::int64_t elements = tensor.shape.elements();
    std::int64_t covered = 0;
    for (const Piece& piece : tensor.pieces) {
      if (piece.begin != covered) {
        throw InvalidArgument("tensor " + tensor.name + " has " +
                              (piece.begin > covered ? "a hole" : "an overlap") + " at element " +
                              std::to_string(std::min(piece.begin, covered)));
      }
      if (piece.count > elements - covered) {
        throw InvalidArgument("tensor " + tensor.name + " of " + std::to_string(elements) +
                              " elements has a piece of " + std::to_string(piece.count) +
                              " from element " + std::to_string(piece.begin) + " on");
      }
      covered += piece.count;
    }
    if (covered != elements) {
      throw InvalidArgument("tensor " + tensor.name + " of " + std::to_string(elements) +
                            " elements has only the first " + std::to_string(covered));
    }
  }
}

std::string CheckpointManifest::to_text() const {
  std::string text = to_json(*this).dump_indented();
  text.resize(text.size() - 3);  // the closing "\n}\n"
  const std::string hash = xxh3_of(text);
  return text.append(hash_key).append(hash).append("\"\n}\n");
}

CheckpointManifest CheckpointManifest::parse(std::string_view text, const std::string& path) {
  const Json json = parse_json(text, path);
  try {
    // The version first: a newer format may protect itself in another way.
    CheckpointManifest manifest = from_json(json);
    const std::size_t tail = hash_key.size() + hash_digits + 4;
    const bool whole = text.size() > tail &&
                       text.substr(text.size() - tail).substr(0, hash_key.size()) == hash_key &&
                       text.substr(text.size() - 4 - hash_digits, hash_digits) ==
                           xxh3_of(text.substr(0, text.size() - tail));
    if (!whole || manifest.to_text() != text) {
      throw InvalidArgument("is damaged: its content does not fit its hash");
    }
    return manifest;
  } catch (const InvalidArgument& error) {
    throw InputFileError(path, error.what());
  }
}

}  // namespace polymoe
