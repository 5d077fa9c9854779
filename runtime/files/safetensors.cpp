// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/float16.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

/// Bits of one element. Types of less than a byte are newer and none of ours.
std::int64_t element_bytes(const std::string& dtype) {
  struct Known {
    const char* name;
    std::int64_t bytes;
  };
  static constexpr Known known[] = {{"F32", 4},  {"BF16", 2}, {"F16", 2},     {"F64", 8},
                                    {"I64", 8},  {"I32", 4},  {"I16", 2},     {"I8", 1},
                                    {"U64", 8},  {"U32", 4},  {"U16", 2},     {"U8", 1},
                                    {"BOOL", 1}, {"C64", 8},  {"F8_E5M2", 1}, {"F8_E4M3", 1}};
  for (const Known& type : known)
    if (dtype == type.name) return type.bytes;
  throw InvalidArgument("dtype " + Json(dtype).dump() + " is not one that is known");
}

SafetensorsFile::Entry parse_entry(const std::string& name, const Json& value) {
  SafetensorsFile::Entry entry{.name = name, .dtype = {}, .extents = {}};
  for (const Json::Member& member : value.members())
    if (member.key != "dtype" && member.key != "shape" && member.key != "data_offsets")
      throw InvalidArgument("unknown member " + Json(member.key).dump());
  entry.dtype = value.at("dtype").as_string();
  entry.bytes = element_bytes(entry.dtype);
  entry.elements = 1;
  for (const Json& item : value.at("shape").items()) {
    const std::int64_t extent = item.as_integer(0);
    entry.extents.push_back(extent);
    if (__builtin_mul_overflow(entry.elements, extent, &entry.elements))
      throw InvalidArgument("its shape has more elements than can be counted");
  }
  if (__builtin_mul_overflow(entry.bytes, entry.elements, &entry.bytes))
    throw InvalidArgument("its shape has more bytes than can be counted");
  const std::vector<Json>& offsets = value.at("data_offsets").items();
  if (offsets.size() != 2) throw InvalidArgument("data_offsets must be [begin, end]");
  entry.begin = offsets[0].as_integer(0);
  const std::int64_t end = offsets[1].as_integer(entry.begin);
  if (end - entry.begin != entry.bytes)
    throw InvalidArgument("data_offsets span " + std::to_string(end - entry.begin) +
                          " bytes, its shape and dtype need " + std::to_string(entry.bytes));
  return entry;
}

void check_metadata(const Json& metadata) {
  for (const Json::Member& member : metadata.members()) member.value.as_string();
}

/// Entries in the order of their bytes, which must be those of the buffer, each once.
void check_cover(std::vector<SafetensorsFile::Entry>& entries, std::int64_t buffer_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  std::int64_t next = 0;
  for (const auto& entry : entries) {
    if (entry.begin != next)
      throw InvalidArgument("tensor " + Json(entry.name).dump() + " begins at byte " +
                            std::to_string(entry.begin) + " of the buffer, must begin at " +
                            std::to_string(next) + ", where the one before it ends");
    next += entry.bytes;
    if (next > buffer_bytes)
      throw InvalidArgument("tensor " + Json(entry.name).dump() + " ends at byte " +
                            std::to_string(next) + " of a buffer of " +
                            std::to_string(buffer_bytes));
  }
  if (next != buffer_bytes)
    throw InvalidArgument("the tensors end at byte " + std::to_string(next) + " of a buffer of " +
                          std::to_string(buffer_bytes));
}

template <class Convert>
void convert(const std::byte* from, std::int64_t count, float* to, Convert value_of) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);  // elements need not be aligned
    to[i] = value_of(bits);
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const auto fail = [&](const std::string& cause) {
    throw InputFileError(path.string(), "not a safetensors file: " + cause);
  };
  constexpr std::int64_t length_bytes = 8;
  if (file_.bytes() < length_bytes)
    fail("has " + std::to_string(file_.bytes()) + " bytes, at least 8 are needed");
  std::uint64_t header_bytes;
  std::memcpy(&header_bytes, file_.data(), length_bytes);
  if (header_bytes > static_cast<std::uint64_t>(max_header_bytes))
    fail("its header has " + std::to_string(header_bytes) + " bytes, at most " +
         std::to_string(max_header_bytes) + " are allowed");
  const auto buffer = length_bytes + static_cast<std::int64_t>(header_bytes);
  if (buffer > file_.bytes())
    fail("its header ends at byte " + std::to_string(buffer) + " of " +
         std::to_string(file_.bytes()));
  const std::string_view text(reinterpret_cast<const char*>(file_.data()) + length_bytes,
                              header_bytes);
  if (!text.starts_with('{')) fail("its header does not start with '{'");
  const Json header = parse_json(text, path.string());
  for (const Json::Member& member : header.members()) {
    try {
      if (member.key == "__metadata__") {
        check_metadata(member.value);
      } else {
        entries_.push_back(parse_entry(member.key, member.value));
      }
    } catch (const InvalidArgument& error) {
      fail(Json(member.key).dump() + ": " + error.what());
    }
  }
  try {
    check_cover(entries_, file_.bytes() - buffer);
  } catch (const InvalidArgument& error) {
    fail(error.what());
  }
  for (Entry& entry : entries_) entry.begin += buffer;
}

void SafetensorsFile::read(const Entry& entry, std::int64_t begin, const Tensor& out) const {
  const std::int64_t count = out.elements();
  if (begin < 0 || count > entry.elements - begin)
    throw InvalidArgument("elements " + std::to_string(begin) + " to " +
                          std::to_string(begin + count) + " of tensor " + entry.name +
                          ", which has " + std::to_string(entry.elements));
  if (count == 0) return;
  const std::int64_t each = entry.bytes / entry.elements;
  const std::byte* from = file_.data() + entry.begin + begin * each;
  if (entry.dtype == "F32") {
    std::memcpy(out.data<float>(), from, static_cast<std::size_t>(count * each));
  } else if (entry.dtype == "BF16") {
    convert(from, count, out.data<float>(), float_of_bf16);
  } else if (entry.dtype == "F16") {
    convert(from, count, out.data<float>(), float_of_f16);
  } else {
    throw InputFileError(path().string(), "tensor " + entry.name + " is " + entry.dtype +
                                              "; must be F32, F16 or BF16");
  }
  file_.forget(from, count * each);
}

}  // namespace polymoe
