// SPDX-License-Identifier: Apache-2.0
#include <deque>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "tests/fuzz/target_files.h"
#include "tests/fuzz/targets.h"

namespace polymoe::fuzz {
namespace {

namespace fs = std::filesystem;

/// The text with the hash that its last member should have.
std::string with_good_hash(std::string_view bytes) {
  const std::size_t tail = bytes.rfind(",\n");
  if (tail == std::string_view::npos) return std::string(bytes);
  const std::string body(bytes.substr(0, tail));
  return body + ",\n  \"xxh3\": \"" + xxh3_of(body) + "\"\n}\n";
}

/// Whether the text is a manifest.
bool parse(const std::string& text) {
  try {
    const CheckpointManifest manifest = CheckpointManifest::parse(text, "manifest.json");
    require(manifest.to_text() == text, "a manifest is what its text says");
    for (const auto& file : manifest.all_files())
      require(file.name == fs::path(file.name).filename(), "files lie beside the manifest");
    manifest.check_cover();
    return true;
  } catch (const InputFileError&) {
    return false;
  }
}

/// The tensors of a small model: one is empty, one is a scalar.
const std::vector<std::pair<std::string, Shape>> tensors = {
    {"moment1/layers.0.router.bias", {1}},
    {"moment2/empty", {0, 9}},
    {"parameter/embedding.weight", {33, 5}},
    {"parameter/layers.0.experts.10.up.weight", {7, 3, 2}},
    {"scalar", {}},
};

/// A committed checkpoint of one rank, and what is read from it.
struct Sample {
  explicit Sample(const char* place)
      : directory(save_sample(scratch() / place, 1)),
        manifest(CheckpointReader(directory).manifest()),
        shard(directory / manifest.files[0].name),
        bytes(test::read_bytes(shard)) {
    for (const auto& [name, shape] : tensors) {
      memory.emplace_back(Shape{shape.elements()}, DType::f32, Device::cpu());
      whole.push_back({name, shape, 0, *memory.back()});
    }
  }

  void read() const {
    const CheckpointReader reader(directory);
    reader.read(whole);
  }
  void write_manifest(const CheckpointManifest& content) const {
    test::write_bytes(directory / manifest_name, content.to_text());
  }

  fs::path directory;
  CheckpointManifest manifest;
  fs::path shard;
  std::string bytes;
  std::deque<OwnedTensor> memory;
  std::vector<TensorPiece> whole;
};

const Sample& sample() {
  static const Sample only("checkpoint");
  return only;
}

}  // namespace

fs::path save_sample(const fs::path& root, int ranks) {
  CheckpointInfo info;
  info.step = ranks;
  info.ranks = info.expert_parallel = ranks;
  info.config = "[model]\nlayers = 2\n# \"quoted\"\n";
  info.state = R"({"sample":12345678901,"bias":[0.1,-3e-05]})";
  const auto pieces_of = [ranks](int rank) {
    std::vector<TensorPiece> pieces;
    for (const auto& [name, shape] : tensors) {
      const std::int64_t begin = shape.elements() * rank / ranks;
      const std::int64_t count = shape.elements() * (rank + 1) / ranks - begin;
      pieces.push_back({name, shape, begin, Tensor(nullptr, {count}, DType::f32, Device::meta())});
    }
    return pieces;
  };
  write_checkpoint(root, info, pieces_of, [](const TensorPiece& piece) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i)
      piece.data.data<float>()[i] = static_cast<float>(piece.begin + i) / 7.0F;
  });
  return root / checkpoint_name(ranks);
}

void manifest(std::string_view bytes) {
  parse(std::string(bytes));
  const std::string forged = with_good_hash(bytes);
  if (!parse(forged)) return;
  // What lies where it says is read, beside a shard that is as it was.
  static const Sample checkpoint("forged");
  test::write_bytes(checkpoint.directory / manifest_name, forged);
  try {
    checkpoint.read();
  } catch (const InputFileError&) {
  }
}

void shard(std::string_view bytes) {
  const Sample& checkpoint = sample();
  CheckpointManifest content = checkpoint.manifest;
  content.version = 2;  // which has the library read the shard
  content.files[0].bytes = static_cast<std::int64_t>(bytes.size());
  content.files[0].xxh3 = xxh3_of(bytes);
  checkpoint.write_manifest(content);
  test::write_bytes(checkpoint.shard, bytes);
  try {
    checkpoint.read();
  } catch (const InputFileError&) {
  }
}

void shard_hash(std::string_view bytes) {
  const Sample& checkpoint = sample();
  checkpoint.write_manifest(checkpoint.manifest);
  test::write_bytes(checkpoint.shard, bytes);
  bool refused = false;
  try {
    checkpoint.read();
  } catch (const InputFileError&) {
    refused = true;
  }
  require(refused == (bytes != checkpoint.bytes), "a shard is read when its hash is right alone");
}

}  // namespace polymoe::fuzz
