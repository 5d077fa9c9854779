// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/token_file.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/megatron_index.h"

namespace polymoe {
namespace {

constexpr std::int64_t llm_c_header_bytes = 256 * 4;
constexpr std::int64_t block_tokens = 1 << 16;

std::string str(std::int64_t value) { return std::to_string(value); }

std::filesystem::path with_suffix(std::filesystem::path path, const char* suffix) {
  path += suffix;
  return path;
}

/// The front of a file, `bytes` of it or as many as there are.
std::vector<std::byte> front_of(const InputFile& file, std::int64_t bytes) {
  std::vector<std::byte> front(static_cast<std::size_t>(std::min(bytes, file.bytes())));
  file.read(0, front.data(), front.size());
  return front;
}

/// The T at a byte of a front that reaches so far; the byte need not be aligned.
template <class T>
T load(const std::vector<std::byte>& front, std::size_t byte) {
  T value;
  std::memcpy(&value, front.data() + byte, sizeof(T));
  return value;
}

bool starts_with(const std::vector<std::byte>& front, std::string_view magic) {
  return front.size() >= magic.size() && std::memcmp(front.data(), magic.data(), magic.size()) == 0;
}

std::int64_t size_of_element(std::int64_t bytes, std::int64_t width, const InputFile& file) {
  if (bytes % width != 0) {
    throw InputFileError(file.path().string(), "truncated: " + str(bytes) +
                                                   " bytes are no whole number of " + str(width) +
                                                   "-byte tokens");
  }
  return bytes / width;
}

/// `block` begins at token `first` and holds an id outside [0, vocab).
template <class T>
[[noreturn]] void refuse_ids(const std::filesystem::path& path, std::int64_t first,
                             std::span<const T> block, std::int64_t vocab) {
  std::size_t i = 0;
  while (!std::cmp_less(block[i], 0) && std::cmp_less(block[i], vocab)) ++i;
  throw InputFileError(path.string(), "token " + str(first + static_cast<std::int64_t>(i)) +
                                          " has id " + std::to_string(block[i]) +
                                          "; the vocabulary allows 0 to " + str(vocab - 1));
}

}  // namespace

/// Calls body(T{}) with T the tokens' type.
template <class Body>
auto TokenFile::with_type(Body body) const {
  switch (element_) {
    case Element::u8:
      return body(std::uint8_t{});
    case Element::i8:
      return body(std::int8_t{});
    case Element::i16:
      return body(std::int16_t{});
    case Element::i32:
      return body(std::int32_t{});
    case Element::i64:
      return body(std::int64_t{});
    case Element::u16:
      return body(std::uint16_t{});
    case Element::u32:
      break;
  }
  return body(std::uint32_t{});
}

/// Calls body(number of the first token, tokens of their type) for one block after the other of
/// [begin, end).
template <class Body>
void TokenFile::for_each_block(std::int64_t begin, std::int64_t end, Body body) const {
  with_type([&](auto type) {
    using T = decltype(type);
    std::vector<T> block;
    for (; begin < end; begin += static_cast<std::int64_t>(block.size())) {
      block.resize(static_cast<std::size_t>(std::min(end - begin, block_tokens)));
      data_->read(first_byte_ + begin * static_cast<std::int64_t>(sizeof(T)), block.data(),
                  block.size() * sizeof(T));
      body(begin, std::span<const T>(block));
    }
  });
}

int TokenFile::token_bytes() const {
  return with_type([](auto type) { return static_cast<int>(sizeof type); });
}

TokenFile TokenFile::open(const std::filesystem::path& path, int token_bytes) {
  if (token_bytes != 2 && token_bytes != 4) {
    throw InvalidArgument("data.token_bytes is " + str(token_bytes) + "; allowed are 2 and 4");
  }
  const std::string extension = path.extension().string();
  const auto exists = [](const std::filesystem::path& file) {
    std::error_code ignored;
    return std::filesystem::exists(file, ignored);
  };
  const std::filesystem::path stem = std::filesystem::path(path).replace_extension();
  TokenFile file;
  if (extension == ".npy") {
    file = open_raw(path, token_bytes);
  } else if (extension == ".idx" || (extension == ".bin" && exists(with_suffix(stem, ".idx")))) {
    file = open_megatron(stem);
  } else if (extension == ".bin") {
    file = open_llm_c(path);
  } else if (exists(with_suffix(path, ".idx"))) {
    file = open_megatron(path);
  } else if (!exists(path)) {
    throw InputFileError(path.string(),
                         exists(path.string() + "-train.idx")
                             ? "no such file; did you mean " + path.string() + "-train?"
                             : "no such file, and no " + path.string() + ".idx");
  } else {
    throw InputFileError(path.string(),
                         "not a token file: expected Megatron .bin with .idx, llm.c .bin, or "
                         "raw .npy; of text polymoe tokenize makes one");
  }
  if (file.tokens_ == 0) throw InputFileError(file.path().string(), "holds no tokens");
  file.open_mask(std::filesystem::path(file.path()).replace_extension());
  return file;
}

void TokenFile::open_mask(const std::filesystem::path& prefix) {
  const std::filesystem::path path = with_suffix(prefix, ".mask.bin");
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  mask_.emplace(path);
  if (mask_->bytes() != tokens_)
    throw InputFileError(path.string(), "has " + str(mask_->bytes()) +
                                            " bytes; expected one for each of the " + str(tokens_) +
                                            " tokens of " + data_->path().string());
}

TokenFile TokenFile::open_raw(const std::filesystem::path& path, int token_bytes) {
  TokenFile file;
  file.data_.emplace(path);
  if (starts_with(front_of(*file.data_, 6), "\x93NUMPY")) {
    throw InputFileError(path.string(),
                         "is a NumPy file with a header; expected raw tokens from byte 0, as "
                         "array.tofile() writes them");
  }
  file.form_ = Form::raw;
  file.element_ = token_bytes == 2 ? Element::u16 : Element::u32;
  file.tokens_ = size_of_element(file.data_->bytes(), token_bytes, *file.data_);
  return file;
}

TokenFile TokenFile::open_llm_c(const std::filesystem::path& path) {
  TokenFile file;
  const InputFile& data = file.data_.emplace(path);
  const std::vector<std::byte> header = front_of(data, llm_c_header_bytes);
  struct Variant {
    std::int32_t magic, version;
    Element element;
    std::int64_t width;
  };
  constexpr std::array variants = {Variant{20240520, 1, Element::u16, 2},
                                   Variant{20240801, 7, Element::u32, 4}};
  const auto* variant = variants.end();
  if (header.size() >= 4) {
    variant = std::find_if(variants.begin(), variants.end(), [&](const Variant& candidate) {
      return candidate.magic == load<std::int32_t>(header, 0);
    });
  }
  if (variant == variants.end()) {
    throw InputFileError(path.string(),
                         "not a token file: it does not start with llm.c's magic number, and "
                         "there is no " +
                             std::filesystem::path(path).replace_extension(".idx").string() +
                             " that would make it a Megatron file");
  }
  if (data.bytes() < llm_c_header_bytes) {
    throw InputFileError(path.string(), "truncated: " + str(data.bytes()) +
                                            " bytes, llm.c's header alone has " +
                                            str(llm_c_header_bytes));
  }
  const std::int32_t version = load<std::int32_t>(header, 4);
  if (version != variant->version) {
    throw InputFileError(path.string(), "llm.c version " + str(version) + ", expected " +
                                            str(variant->version) + " with magic number " +
                                            str(variant->magic));
  }
  file.form_ = Form::llm_c;
  file.element_ = variant->element;
  file.first_byte_ = llm_c_header_bytes;
  file.tokens_ = load<std::int32_t>(header, 8);
  const std::int64_t expected = llm_c_header_bytes + file.tokens_ * variant->width;
  if (file.tokens_ < 0 || data.bytes() != expected) {
    throw InputFileError(path.string(), "the header says " + str(file.tokens_) +
                                            " tokens, that is " + str(expected) +
                                            " bytes; the file has " + str(data.bytes()));
  }
  return file;
}

TokenFile TokenFile::open_megatron(const std::filesystem::path& prefix) {
  TokenFile file;
  const MegatronIndex& index = file.index_.emplace(with_suffix(prefix, ".idx"));
  const std::string name = index.file().path().string();
  const int code = index.dtype_code();
  int width = 0;
  switch (code) {
    case 1:
      file.element_ = Element::u8, width = 1;
      break;
    case 2:
      file.element_ = Element::i8, width = 1;
      break;
    case 3:
      file.element_ = Element::i16, width = 2;
      break;
    case 4:
      file.element_ = Element::i32, width = 4;
      break;
    case 5:
      file.element_ = Element::i64, width = 8;
      break;
    case 8:
      file.element_ = Element::u16, width = 2;
      break;
    default:
      throw InputFileError(name, "dtype code " + str(code) +
                                     " is no integer type; expected 1 (u8), 2 (i8), 3 (i16), 4 "
                                     "(i32), 5 (i64) or 8 (u16)");
  }
  file.form_ = Form::megatron;
  file.data_.emplace(with_suffix(prefix, ".bin"));
  file.tokens_ = size_of_element(file.data_->bytes(), width, *file.data_);
  file.index_->attach(file.data_->path(), file.data_->bytes(), width);
  return file;
}

std::int64_t TokenFile::documents() const { return index_ ? index_->documents() : 0; }

const InputFile* TokenFile::index() const { return index_ ? &index_->file() : nullptr; }

void TokenFile::check_index() const {
  if (index_) index_->check();
}

std::string TokenFile::form_name() const {
  constexpr std::array forms = {"Megatron", "llm.c", "raw"};
  constexpr std::array elements = {"u8", "i8", "i16", "i32", "i64", "u16", "u32"};
  return std::string(forms[static_cast<std::size_t>(form_)]) + " " +
         elements[static_cast<std::size_t>(element_)];
}

TokenFile::Range TokenFile::document(std::int64_t i) const {
  if (i < 0 || i >= documents()) {
    throw InvalidArgument("document " + str(i) + " of " + path().string() + ", which has " +
                          str(documents()));
  }
  return index_->document(i);
}

std::vector<std::int64_t> TokenFile::document_bounds(std::int64_t first, std::int64_t count) const {
  if (first < 0 || count < 1 || first > documents() - count) {
    throw InvalidArgument("documents " + str(first) + " to " + str(first + count) + " of " +
                          path().string() + ", which has " + str(documents()));
  }
  return index_->document_bounds(first, count);
}

std::vector<std::int64_t> TokenFile::document_starts(std::int64_t begin, std::int64_t end) const {
  return index_ ? index_->document_starts(begin, end) : std::vector<std::int64_t>();
}

void TokenFile::read(std::int64_t begin, std::int64_t count, std::int32_t* out,
                     std::int64_t vocab) const {
  if (begin < 0 || count < 0 || begin > tokens_ - count) {
    throw InvalidArgument("tokens " + str(begin) + " to " + str(begin + count) + " of " +
                          path().string() + ", which has " + str(tokens_));
  }
  for_each_block(begin, begin + count, [&](std::int64_t first, auto block) {
    bool outside = false;
    for (std::size_t i = 0; i < block.size(); ++i) {
      outside |= std::cmp_less(block[i], 0) || !std::cmp_less(block[i], vocab);
      *out++ = static_cast<std::int32_t>(block[i]);
    }
    if (outside) refuse_ids(path(), first, block, vocab);
  });
}

void TokenFile::read_targets(std::int64_t begin, std::int64_t count, std::int32_t* out,
                             std::int64_t vocab) const {
  read(begin, count, out, vocab);
  if (!mask_) return;
  std::vector<std::uint8_t> counted(static_cast<std::size_t>(count));
  mask_->read(begin, counted.data(), counted.size());
  for (std::size_t i = 0; i < counted.size(); ++i) {
    if (counted[i] > 1)
      throw InputFileError(mask_->path().string(),
                           "byte " + str(begin + static_cast<std::int64_t>(i)) + " is " +
                               std::to_string(counted[i]) + "; expected 0 or 1");
    if (counted[i] == 0) out[i] = -1;
  }
}

std::uint64_t TokenFile::max_token() const {
  std::uint64_t largest = 0;
  for_each_block(0, tokens_, [&](std::int64_t, auto block) {
    for (const auto id : block) {
      // As unsigned values of 64 bits, negative ones are the largest.
      largest = std::max(largest, static_cast<std::uint64_t>(id));
    }
  });
  return largest;
}

void TokenFile::check_vocabulary(std::int64_t vocab) const {
  for_each_block(0, tokens_, [&](std::int64_t first, auto block) {
    bool outside = false;
    for (const auto id : block) outside |= std::cmp_less(id, 0) || !std::cmp_less(id, vocab);
    if (outside) refuse_ids(path(), first, block, vocab);
  });
}

bool TokenFile::looks_like_u32() const {
  constexpr std::int64_t samples = 8, sample_tokens = 2048;
  if (form_ != Form::raw || element_ != Element::u16 || tokens_ % 2 != 0) return false;
  std::int64_t seen = 0, small_high = 0, small_low = 0;
  const std::int64_t count = std::min(tokens_, sample_tokens);
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::int64_t begin = (tokens_ - count) / samples * sample / 2 * 2;
    for_each_block(begin, begin + count, [&](std::int64_t, auto block) {
      for (std::size_t i = 0; i + 1 < block.size(); i += 2) {
        ++seen;
        small_low += std::cmp_less(block[i], 2);
        small_high += std::cmp_less(block[i + 1], 2);
      }
    });
  }
  return seen >= 16 && small_high == seen && 2 * small_low < seen;
}

}  // namespace polymoe
