// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/verify.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/files/hdf5_file.h"
#include "runtime/progress.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using StoredTensor = CheckpointManifest::StoredTensor;

constexpr std::int64_t part_elements = std::int64_t{1} << 22;

/// What `body` returns; nothing and a finding where it throws.
template <class Body>
auto found_by(CheckpointVerdict& verdict, Body body) -> std::optional<decltype(body())> {
  try {
    return body();
  } catch (const InputFileError& error) {
    verdict.findings.push_back(error.what());
    return std::nullopt;
  }
}

bool is_whole(const fs::path& path, const CheckpointManifest::File& expected, Progress& progress,
              CheckpointVerdict& verdict) {
  const std::optional<std::string> wrong = found_by(verdict, [&]() -> std::string {
    const std::int64_t bytes = size_of_file(path);
    if (bytes != expected.bytes) {
      return "has " + std::to_string(bytes) + " bytes, the manifest says " +
             std::to_string(expected.bytes);
    }
    const std::string hash =
        xxh3_of_file(path, [&](std::int64_t count) { progress.advance(count); });
    if (hash != expected.xxh3) {
      return "is damaged: its content has hash " + hash + ", the manifest says " + expected.xxh3;
    }
    return "";
  });
  if (!wrong) return false;
  if (!wrong->empty()) verdict.findings.push_back(path.string() + ": " + *wrong);
  return wrong->empty();
}

/// Elements of a tensor that are not finite.
struct NotFinite {
  std::int64_t count = 0;
  std::int64_t first = 0;  // flat index
};

void check_values(const Tensor& part, std::int64_t begin, std::vector<double>& values,
                  NotFinite& bad) {
  to_doubles(part, values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    const std::int64_t at = begin + static_cast<std::int64_t>(i);
    bad.first = bad.count == 0 ? at : std::min(bad.first, at);
    ++bad.count;
  }
}

struct PieceOfFile {
  const StoredTensor* tensor;
  const CheckpointManifest::Piece* piece;
};

void check_pieces(const fs::path& path, const std::vector<PieceOfFile>& pieces,
                  std::map<std::string, NotFinite>& not_finite, Progress& progress,
                  CheckpointVerdict& verdict) {
  found_by(verdict, [&] {
    const Hdf5Reader file(path);
    std::vector<double> values;
    for (const auto& [tensor, piece] : pieces) {
      found_by(verdict, [&, tensor = tensor, piece = piece] {
        const Hdf5Reader::Dataset dataset = file.describe(piece->dataset);
        if (dataset.count != piece->count || dataset.dtype != tensor->dtype) {
          throw InputFileError(path.string(), "dataset " + piece->dataset + " holds " +
                                                  std::to_string(dataset.count) + " elements of " +
                                                  name_of(dataset.dtype) + ", the manifest says " +
                                                  std::to_string(piece->count) + " of " +
                                                  name_of(tensor->dtype));
        }
        if (piece->offset >= 0 && dataset.offset != piece->offset) {
          throw InputFileError(path.string(), "dataset " + piece->dataset + " begins at byte " +
                                                  std::to_string(dataset.offset) +
                                                  ", the manifest says " +
                                                  std::to_string(piece->offset));
        }
        const OwnedTensor memory({std::min(piece->count, part_elements)}, tensor->dtype,
                                 Device::cpu());
        for (std::int64_t begin = 0; begin < piece->count; begin += part_elements) {
          const Tensor part = memory->rows(0, std::min(part_elements, piece->count - begin));
          file.read(piece->dataset, begin, part);
          check_values(part, piece->begin + begin, values, not_finite[tensor->name]);
          progress.advance(static_cast<std::int64_t>(part.bytes()));
        }
        verdict.elements += piece->count;
        return true;
      });
    }
    return true;
  });
}

}  // namespace

CheckpointVerdict verify_checkpoint(const fs::path& directory, const ProgressOutput& output) {
  CheckpointVerdict verdict;
  const auto manifest = found_by(verdict, [&] { return read_manifest(directory); });
  if (!manifest) return verdict;
  std::vector<std::vector<PieceOfFile>> pieces(manifest->files.size());
  for (const StoredTensor& tensor : manifest->tensors) {
    for (const auto& piece : tensor.pieces) {
      pieces[static_cast<std::size_t>(piece.file)].push_back({&tensor, &piece});
    }
  }
  verdict.tensors = static_cast<std::int64_t>(manifest->tensors.size());
  std::map<std::string, NotFinite> not_finite;
  const std::vector<CheckpointManifest::File> files = manifest->all_files();
  std::int64_t bytes = 0;  // of the files, for their hashes, and of the tensors, for their values
  for (const CheckpointManifest::File& file : files) bytes += file.bytes;
  for (const StoredTensor& tensor : manifest->tensors)
    bytes += tensor.shape.elements() * static_cast<std::int64_t>(size_of(tensor.dtype));
  Progress progress(output, {.what = "verifying", .total = bytes, .unit = "bytes"});
  for (std::size_t i = 0; i < files.size(); ++i) {
    ++verdict.files;
    verdict.bytes += files[i].bytes;
    const fs::path path = directory / files[i].name;
    if (!is_whole(path, files[i], progress, verdict) || i >= pieces.size()) continue;
    check_pieces(path, pieces[i], not_finite, progress, verdict);
  }
  for (const auto& [name, bad] : not_finite) {
    if (bad.count == 0) continue;
    verdict.findings.push_back(
        directory.string() + ": tensor " + name + " has " + std::to_string(bad.count) +
        " elements that are not finite, the first at " + std::to_string(bad.first));
  }
  return verdict;
}

}  // namespace polymoe
