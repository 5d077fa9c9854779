// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/byte_source.h"

#include <fcntl.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

/// The file as it is, with a look at its front.
class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(const std::filesystem::path& path)
      : path_(path == "-" ? "standard input" : path) {
    descriptor_ = path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("cannot open");
    struct stat status {};
    if (::fstat(descriptor_, &status) == 0 && S_ISDIR(status.st_mode))
      throw InputFileError(path_.string(), "is a directory");
    front_.resize(16);
    front_.resize(read_file(front_.data(), front_.size()));
  }
  ~PlainSource() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  PlainSource(const PlainSource&) = delete;
  PlainSource& operator=(const PlainSource&) = delete;

  std::string_view front() const { return front_; }
  const std::filesystem::path& path() const { return path_; }

  std::size_t read(char* to, std::size_t count) override {
    const std::size_t first = std::min(count, front_.size() - given_);
    std::copy_n(front_.data() + given_, first, to);
    given_ += first;
    return first + read_file(to + first, count - first);
  }
  std::int64_t consumed() const override { return consumed_; }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw InputFileError(path_.string(),
                         std::string(what) + ": " + std::generic_category().message(errno));
  }
  std::size_t read_file(char* to, std::size_t count) {
    std::size_t done = 0;
    while (done < count) {
      const ssize_t got = ::read(descriptor_, to + done, count - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("cannot read");
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    consumed_ += static_cast<std::int64_t>(done);
    return done;
  }

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::string front_;
  std::size_t given_ = 0;  // of the front
  std::int64_t consumed_ = 0;
};

/// What decompression has in common: input comes in blocks, and must end between members.
class CompressedSource : public ByteSource {
 public:
  CompressedSource(std::unique_ptr<PlainSource> file, const char* form)
      : file_(std::move(file)), form_(form), input_(std::size_t{1} << 18) {}

  std::int64_t consumed() const override { return file_->consumed(); }

  std::size_t read(char* to, std::size_t count) final {
    std::size_t done = 0;
    while (done < count) {
      if (begin_ == end_ && !ended_) {
        begin_ = 0;
        end_ = file_->read(input_.data(), input_.size());
        ended_ = end_ < input_.size();
      }
      const std::size_t before_input = begin_, before_output = done;
      decompress(to, count, done);
      if (begin_ == before_input && done == before_output && begin_ == end_ && ended_) break;
    }
    if (done < count && inside_)
      throw InputFileError(file_->path().string(),
                           std::string("ends too early, within its ") + form_ + " data");
    return done;
  }

 protected:
  /// Moves begin_ and done on; sets inside_ to whether a member has begun and not ended.
  virtual void decompress(char* to, std::size_t count, std::size_t& done) = 0;

  [[noreturn]] void damaged(const char* reason) const {
    throw InputFileError(file_->path().string(), std::string("is damaged ") + form_ +
                                                     " data before byte " +
                                                     std::to_string(consumed()) + ": " + reason);
  }
  char* next_input() { return input_.data() + begin_; }
  std::size_t input_left() const { return end_ - begin_; }
  /// No more input will come.
  bool input_ended() const { return ended_ && begin_ == end_; }

  std::size_t begin_ = 0;
  bool inside_ = false;

 private:
  std::unique_ptr<PlainSource> file_;
  const char* form_;
  std::vector<char> input_;
  std::size_t end_ = 0;
  bool ended_ = false;
};

class GzipSource final : public CompressedSource {
 public:
  explicit GzipSource(std::unique_ptr<PlainSource> file)
      : CompressedSource(std::move(file), "gzip") {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) throw Error("zlib: out of memory");
  }
  ~GzipSource() override { inflateEnd(&stream_); }

 private:
  void decompress(char* to, std::size_t count, std::size_t& done) override {
    if (input_left() == 0 && !inside_) return;
    inside_ = true;
    constexpr std::size_t most = std::numeric_limits<uInt>::max() / 2;
    stream_.next_in = reinterpret_cast<Bytef*>(next_input());
    stream_.avail_in = static_cast<uInt>(input_left());
    stream_.next_out = reinterpret_cast<Bytef*>(to + done);
    const std::size_t room = std::min(count - done, most);
    stream_.avail_out = static_cast<uInt>(room);
    const std::size_t available = input_left();
    const int result = inflate(&stream_, Z_NO_FLUSH);
    begin_ += available - stream_.avail_in;
    done += room - stream_.avail_out;
    if (result == Z_STREAM_END) {
      inside_ = false;
      inflateReset(&stream_);  // another member may follow
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      damaged(stream_.msg != nullptr ? stream_.msg : "unknown");
    }
  }

  z_stream stream_{};
};

class ZstdSource final : public CompressedSource {
 public:
  explicit ZstdSource(std::unique_ptr<PlainSource> file)
      : CompressedSource(std::move(file), "Zstandard"), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw Error("zstd: out of memory");
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

 private:
  void decompress(char* to, std::size_t count, std::size_t& done) override {
    ZSTD_inBuffer input{next_input(), input_left(), 0};
    ZSTD_outBuffer output{to, count, done};
    const std::size_t result = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(result) != 0) damaged(ZSTD_getErrorName(result));
    if (input.pos > 0 || output.pos > done) inside_ = result != 0;
    begin_ += input.pos;
    done = output.pos;
  }

  ZSTD_DStream* stream_;
};

class XzSource final : public CompressedSource {
 public:
  explicit XzSource(std::unique_ptr<PlainSource> file) : CompressedSource(std::move(file), "xz") {
    constexpr std::uint64_t most_memory = std::uint64_t{1} << 30;
    if (lzma_stream_decoder(&stream_, most_memory, LZMA_CONCATENATED) != LZMA_OK)
      throw Error("liblzma: out of memory");
    inside_ = true;
  }
  ~XzSource() override { lzma_end(&stream_); }

 private:
  void decompress(char* to, std::size_t count, std::size_t& done) override {
    if (!inside_) return;
    stream_.next_in = reinterpret_cast<std::uint8_t*>(next_input());
    stream_.avail_in = input_left();
    stream_.next_out = reinterpret_cast<std::uint8_t*>(to + done);
    stream_.avail_out = count - done;
    const std::size_t available = input_left(), room = count - done;
    const lzma_ret result = lzma_code(&stream_, input_ended() ? LZMA_FINISH : LZMA_RUN);
    begin_ += available - stream_.avail_in;
    done += room - stream_.avail_out;
    if (result == LZMA_STREAM_END)
      inside_ = false;
    else if (result == LZMA_MEMLIMIT_ERROR)
      damaged("it needs more than 1 GiB of memory");
    else if (result != LZMA_OK && result != LZMA_BUF_ERROR)
      damaged("its check fails or its form is not known");
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path) {
  auto file = std::make_unique<PlainSource>(path);
  const std::string_view front = file->front();
  if (front.starts_with("\x1f\x8b")) return std::make_unique<GzipSource>(std::move(file));
  if (front.starts_with("\x28\xb5\x2f\xfd")) return std::make_unique<ZstdSource>(std::move(file));
  if (front.starts_with(std::string_view("\xfd"
                                         "7zXZ\0",
                                         6)))
    return std::make_unique<XzSource>(std::move(file));
  return file;
}

}  // namespace polymoe
