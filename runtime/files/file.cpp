// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "runtime/error.h"
#include "runtime/files/new_file.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail_output(const std::filesystem::path& path, const std::string& what,
                              int error) {
  throw OutputFileError(path.string(), what + ": " + reason(error));
}

/// Closes at the end of a block.
struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

/// Opens for reading and returns the size.
std::int64_t open_regular(const std::filesystem::path& path, Descriptor& descriptor) {
  // Without O_NONBLOCK a pipe would wait here for a writer.
  descriptor.value = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor.value < 0) {
    throw InputFileError(path.string(), "cannot open: " + reason(errno));
  }
  struct stat status {};
  if (::fstat(descriptor.value, &status) != 0) {
    throw InputFileError(path.string(), "cannot read its size: " + reason(errno));
  }
  if (!S_ISREG(status.st_mode)) throw InputFileError(path.string(), "is not a regular file");
  return status.st_size;
}

void write_all(int descriptor, const char* bytes, std::size_t count,
               const std::filesystem::path& path) {
  while (count > 0) {
    const ssize_t written = ::write(descriptor, bytes, count);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_output(path, "cannot write", errno);
    }
    bytes += written;
    count -= static_cast<std::size_t>(written);
  }
}

void sync_path(const std::filesystem::path& path, int flags) {
  const Descriptor descriptor{::open(path.c_str(), flags | O_CLOEXEC)};
  if (descriptor.value < 0) fail_output(path, "cannot open to sync", errno);
  if (::fsync(descriptor.value) != 0) fail_output(path, "cannot sync", errno);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  Descriptor descriptor;
  bytes_ = open_regular(path, descriptor);
  if (bytes_ == 0) return;
  void* memory =
      ::mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ, MAP_SHARED, descriptor.value, 0);
  if (memory == MAP_FAILED) {
    throw InputFileError(path.string(), "cannot map into memory: " + reason(errno));
  }
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(bytes_));
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void MappedFile::forget(const std::byte* begin, std::int64_t count) const {
  const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  const std::int64_t first = round_up(begin - data_, page);
  const std::int64_t last = (begin - data_ + count) / page * page;
  if (first >= last) return;
  // Only advice: where it is not taken, the pages go when memory gets short.
  ::madvise(const_cast<std::byte*>(data_) + first, static_cast<std::size_t>(last - first),
            MADV_DONTNEED);
}

InputFile::InputFile(const std::filesystem::path& path) : path_(path) {
  Descriptor descriptor;
  bytes_ = open_regular(path, descriptor);
  descriptor_ = std::exchange(descriptor.value, -1);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      bytes_(other.bytes_),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void InputFile::read(std::int64_t offset, void* to, std::size_t count) const {
  auto* next = static_cast<std::byte*>(to);
  while (count > 0) {
    const ssize_t done = ::pread(descriptor_, next, count, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw InputFileError(path_.string(), "cannot read: " + reason(errno));
    if (done == 0) {
      const bool shrunk = offset < bytes_;
      throw InputFileError(path_.string(),
                           "ends before byte " + std::to_string(offset) +
                               (shrunk ? ": it became shorter since it was opened with " +
                                             std::to_string(bytes_) + " bytes"
                                       : ", where more was expected"));
    }
    next += done;
    count -= static_cast<std::size_t>(done);
    offset += done;
  }
}

OutputFile::OutputFile(const std::filesystem::path& path, Mode mode) : path_(path) {
  const int how = mode == Mode::create ? O_TRUNC : O_APPEND;
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);
  if (descriptor_ < 0) fail_output(path, "cannot open for writing", errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      buffer_(std::move(other.buffer_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

void OutputFile::write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

void OutputFile::write(const void* bytes, std::size_t count) {
  if (buffer_.size() + count > buffer_bytes) flush();
  if (count >= buffer_bytes) {
    write_all(descriptor_, static_cast<const char*>(bytes), count, path_);
  } else {
    buffer_.append(static_cast<const char*>(bytes), count);
  }
}

void OutputFile::replace_from(std::int64_t offset, std::string_view bytes) {
  flush();
  // A file that is appended to takes every write at its end.
  const int flags = ::fcntl(descriptor_, F_GETFL);
  if (flags < 0 || ::fcntl(descriptor_, F_SETFL, flags & ~O_APPEND) != 0)
    fail_output(path_, "cannot write", errno);
  if (::lseek(descriptor_, offset, SEEK_SET) < 0) fail_output(path_, "cannot write", errno);
  write_all(descriptor_, bytes.data(), bytes.size(), path_);
  if (::ftruncate(descriptor_, offset + static_cast<std::int64_t>(bytes.size())) != 0 ||
      ::fcntl(descriptor_, F_SETFL, flags) != 0)
    fail_output(path_, "cannot write", errno);
}

std::int64_t OutputFile::bytes() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_output(path_, "cannot tell the size", errno);
  return static_cast<std::int64_t>(status.st_size) + static_cast<std::int64_t>(buffer_.size());
}

void OutputFile::flush() {
  write_all(descriptor_, buffer_.data(), buffer_.size(), path_);
  buffer_.clear();
}

void OutputFile::sync() {
  flush();
  if (::fsync(descriptor_) != 0) fail_output(path_, "cannot sync", errno);
}

void OutputFile::close() {
  flush();
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_output(path_, "cannot close", errno);
}

std::string read_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  Descriptor descriptor;
  const std::int64_t size = open_regular(path, descriptor);
  if (size > max_bytes) {
    throw InputFileError(path.string(), "has " + std::to_string(size) + " bytes, at most " +
                                            std::to_string(max_bytes) + " are expected");
  }
  std::string content(static_cast<std::size_t>(size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t count = ::read(descriptor.value, content.data() + done, content.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw InputFileError(path.string(), "cannot read: " + reason(errno));
    if (count == 0) throw InputFileError(path.string(), "became shorter while it was read");
    done += static_cast<std::size_t>(count);
  }
  return content;
}

std::int64_t size_of_file(const std::filesystem::path& path) {
  Descriptor descriptor;
  return open_regular(path, descriptor);
}

void replace_file(const std::filesystem::path& path, std::string_view content) {
  NewFile file(path);
  file.write(content);
  file.finish();
  file.complete();
  sync_directory(path.has_parent_path() ? path.parent_path() : ".");
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail_output(to, "cannot rename " + from.string() + " to it", errno);
  }
}

void sync_file(const std::filesystem::path& path) { sync_path(path, O_RDONLY); }

void sync_directory(const std::filesystem::path& path) { sync_path(path, O_RDONLY | O_DIRECTORY); }

void make_directories(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    throw OutputFileError(path.string(), "cannot create the directory: " + error.message());
  }
}

}  // namespace polymoe
