// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace polymoe {

/// A read-only map of a whole regular file. Move-only.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws InputFileError when the path is missing, not a regular file, or cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Null for an empty file.
  const std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  /// The pages within [begin, begin + count) leave this process's memory; who looks there again
  /// reads them anew.
  void forget(const std::byte* begin, std::int64_t count) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// A regular file, read at any place. Move-only.
class InputFile {
 public:
  /// Throws InputFileError when the path is missing or not a regular file.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Size when it was opened.
  std::int64_t bytes() const { return bytes_; }
  /// Fills `to` with `count` bytes from `offset` on. Throws InputFileError, also where the file
  /// ends before.
  void read(std::int64_t offset, void* to, std::size_t count) const;

 private:
  std::filesystem::path path_;
  std::int64_t bytes_ = 0;
  int descriptor_ = -1;
};

/// A file under construction, written front to back through a buffer. Every failure throws
/// OutputFileError with the path and the system's reason. The destructor closes without flushing:
/// only close() says that the content is there.
class OutputFile {
 public:
  enum class Mode : std::uint8_t { create, append };

  /// create: the file is new or emptied. append: it is kept, or new.
  explicit OutputFile(const std::filesystem::path& path, Mode mode = Mode::create);
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::string_view bytes);
  void write(const void* bytes, std::size_t count);
  /// Replaces all from `offset` on, which is at most bytes(), and flushes: whoever reads meanwhile,
  /// or after a kill, finds the old bytes or the new ones, and maybe some of the old ones behind
  /// them.
  void replace_from(std::int64_t offset, std::string_view bytes);
  /// Size by now, the buffer included.
  std::int64_t bytes() const;
  /// Hands the buffer to the system.
  void flush();
  /// Flushes, and returns when the content is on the disk.
  void sync();
  /// Flushes and closes.
  void close();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::string buffer_;
  int descriptor_ = -1;
};

/// The whole content. Throws InputFileError when missing, not a regular file, or over `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::int64_t max_bytes);

/// Size of a regular file in bytes. Throws InputFileError when missing or of another kind.
std::int64_t size_of_file(const std::filesystem::path& path);

/// Writes `content` beside `path`, syncs it, and puts it in place of `path` in one step: a reader
/// sees the old content or the new. Throws OutputFileError.
void replace_file(const std::filesystem::path& path, std::string_view content);

/// Renames within one file system, replacing a file of the new name. Throws OutputFileError.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Returns when the content of a file written by somebody else is on the disk.
void sync_file(const std::filesystem::path& path);

/// Returns when the names in a directory are on the disk.
void sync_directory(const std::filesystem::path& path);

/// Creates a directory and its parents where they do not exist. Throws OutputFileError.
void make_directories(const std::filesystem::path& path);

}  // namespace polymoe
