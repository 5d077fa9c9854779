// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/file.h"
#include "runtime/tensor.h"

namespace polymoe {

/// One safetensors file, mapped for reading: u64 length N of the header, N bytes of JSON, then the
/// tensors' elements, little-endian. Nothing is taken on trust: a file is refused unless its header
/// is JSON as specified and its tensors fill the rest of the file without holes or overlap.
/// Format: https://github.com/huggingface/safetensors.
class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    std::string dtype;  // in the format's spelling: "F32", "BF16", "I64", ...
    std::vector<std::int64_t> extents;
    std::int64_t elements = 0;
    std::int64_t begin = 0;  // first byte within the file
    std::int64_t bytes = 0;
  };

  static constexpr std::int64_t max_header_bytes = 100'000'000;

  /// Throws InputFileError saying what is wrong.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their bytes.
  const std::vector<Entry>& entries() const { return entries_; }

  /// Fills `out` (CPU, f32) with its count of elements of `entry` from `begin` on; F32 unchanged,
  /// F16 and BF16 exactly converted. Throws InputFileError for another dtype, InvalidArgument
  /// beyond the tensor's end. What was read does not stay in this process's memory.
  void read(const Entry& entry, std::int64_t begin, const Tensor& out) const;

 private:
  MappedFile file_;
  std::vector<Entry> entries_;
};

/// The tensors of a model in a directory: model.safetensors, or else the files that
/// model.safetensors.index.json names, which lie in the same directory.
class SafetensorsModel {
 public:
  static constexpr const char* single_name = "model.safetensors";
  static constexpr const char* index_name = "model.safetensors.index.json";

  struct Source {
    const SafetensorsFile* file;
    const SafetensorsFile::Entry* entry;
  };

  /// Throws InputFileError when there is neither, when a name in the index is not that of a file
  /// beside it, and unless index and files name the same tensors.
  explicit SafetensorsModel(const std::filesystem::path& directory);

  const std::map<std::string, Source, std::less<>>& tensors() const { return tensors_; }
  /// Null when there is none of that name.
  const Source* find(std::string_view name) const;

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Source, std::less<>> tensors_;
};

enum class SafetensorsDType : std::uint8_t { f32, bf16 };

/// Writes a model as safetensors, tensor by tensor, in files of bounded size: model.safetensors, or
/// model-00001-of-00003.safetensors ... with the index. Every failure throws OutputFileError.
class SafetensorsWriter {
 public:
  struct Plan {
    std::string name;
    Shape shape;
  };
  struct Options {
    SafetensorsDType dtype = SafetensorsDType::f32;
    std::int64_t max_file_bytes = 5'000'000'000;  // of tensors; a single one may be larger
  };

  /// `tensors` are all that will be written, in that order. The directory exists.
  SafetensorsWriter(std::filesystem::path directory, std::vector<Plan> tensors,
                    const Options& options);

  /// Appends elements (f32, CPU; bf16 by rounding to nearest, ties to even) to the tensor that is
  /// under way, or starts the next one when that is full. Throws InvalidArgument unless it is the
  /// tensor called `name` and there is room.
  void append(std::string_view name, const Tensor& elements);
  /// Syncs all files and writes the index. Throws InvalidArgument when elements are missing.
  void finish();

  /// Names of the files written, the index included; after finish().
  const std::vector<std::string>& files() const { return files_; }

 private:
  std::int64_t bytes_of(const Plan& tensor) const;
  void open_file(std::size_t file);
  void close_file();

  std::filesystem::path directory_;
  std::vector<Plan> tensors_;
  Options options_;
  std::vector<std::size_t> first_;  // of each file's tensors; one more at the end
  std::vector<std::string> files_;
  std::optional<OutputFile> output_;
  std::size_t file_ = 0;    // under way
  std::size_t tensor_ = 0;  // under way
  std::int64_t done_ = 0;   // elements of it
  std::vector<std::uint16_t> rounded_;
};

}  // namespace polymoe
