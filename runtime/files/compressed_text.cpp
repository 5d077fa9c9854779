// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/compressed_text.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>

#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

using Chunk = std::array<char, std::size_t{1} << 16>;

/// Collects what is unpacked, up to a limit.
class Unpacked {
 public:
  Unpacked(std::string path, std::int64_t max_bytes)
      : path_(std::move(path)), max_bytes_(static_cast<std::size_t>(max_bytes)) {}
  void add(const char* bytes, std::size_t count) {
    if (text.size() + count > max_bytes_)
      fail("unpacks to more than " + std::to_string(max_bytes_) + " bytes");
    text.append(bytes, count);
  }
  [[noreturn]] void fail(const std::string& cause) const { throw InputFileError(path_, cause); }

  std::string text;

 private:
  std::string path_;
  std::size_t max_bytes_;
};

void unpack_gzip(std::string_view packed, Unpacked& unpacked) {
  z_stream stream{};
  constexpr int gzip_windows = 16 + MAX_WBITS;
  if (inflateInit2(&stream, gzip_windows) != Z_OK) throw Error("zlib could not be started");
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> end(&stream, inflateEnd);
  // zlib counts in 32 bits and has no const input.
  Chunk chunk{};
  int result = Z_OK;
  while (!packed.empty() || result != Z_STREAM_END) {
    if (result == Z_STREAM_END) inflateReset(&stream);  // the next member
    const std::size_t input = std::min<std::size_t>(packed.size(), std::size_t{1} << 30);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(input);
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    result = inflate(&stream, Z_NO_FLUSH);
    const std::size_t output = chunk.size() - stream.avail_out;
    unpacked.add(chunk.data(), output);
    packed.remove_prefix(input - stream.avail_in);
    if (result == Z_BUF_ERROR && packed.empty() && output == 0) unpacked.fail("ends too early");
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
      unpacked.fail("is a damaged gzip file");
  }
}

void unpack_zstd(std::string_view packed, Unpacked& unpacked) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     ZSTD_freeDCtx);
  Chunk chunk{};
  ZSTD_inBuffer input{packed.data(), packed.size(), 0};
  std::size_t left = 1;  // of the frame; 0 = it is complete
  while (true) {
    ZSTD_outBuffer output{chunk.data(), chunk.size(), 0};
    left = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(left) != 0) unpacked.fail("is a damaged zstd file");
    unpacked.add(chunk.data(), output.pos);
    if (input.pos == input.size && output.pos < output.size) break;
  }
  if (left != 0) unpacked.fail("ends too early");
}

}  // namespace

std::string read_compressed_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  std::string content = read_file(path, max_bytes);
  Unpacked unpacked(path.string(), max_bytes);
  if (content.starts_with("\x1f\x8b"))
    unpack_gzip(content, unpacked);
  else if (content.starts_with("\x28\xb5\x2f\xfd"))
    unpack_zstd(content, unpacked);
  else
    return content;
  return std::move(unpacked.text);
}

}  // namespace polymoe
