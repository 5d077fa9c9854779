// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/token_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::int64_t index_header_bytes = 9 + 8 + 1 + 8 + 8;
constexpr std::int64_t llm_c_header_bytes = 256 * 4;

std::string str(std::int64_t value) { return std::to_string(value); }

std::filesystem::path with_suffix(std::filesystem::path path, const char* suffix) {
  path += suffix;
  return path;
}

/// The i-th T at a byte offset that need not be aligned.
template <class T>
T load(const std::byte* first, std::int64_t i = 0) {
  T value;
  std::memcpy(&value, first + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

bool starts_with(const MappedFile& file, std::string_view magic) {
  return file.bytes() >= static_cast<std::int64_t>(magic.size()) &&
         std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

std::int64_t size_of_element(std::int64_t bytes, std::int64_t width, const MappedFile& file) {
  if (bytes % width != 0) {
    throw InputFileError(file.path().string(), "truncated: " + str(bytes) +
                                                   " bytes are no whole number of " + str(width) +
                                                   "-byte tokens");
  }
  return bytes / width;
}

}  // namespace

/// Calls body(first byte, T{}) with T the tokens' type.
template <class Body>
auto TokenFile::with_tokens(Body body) const {
  const std::byte* first = data_.data() + first_byte_;
  switch (element_) {
    case Element::u8:
      return body(first, std::uint8_t{});
    case Element::i8:
      return body(first, std::int8_t{});
    case Element::i16:
      return body(first, std::int16_t{});
    case Element::i32:
      return body(first, std::int32_t{});
    case Element::i64:
      return body(first, std::int64_t{});
    case Element::u16:
      return body(first, std::uint16_t{});
    case Element::u32:
      break;
  }
  return body(first, std::uint32_t{});
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
    throw InputFileError(path.string(), "no such file, and no " + path.string() + ".idx");
  } else {
    throw InputFileError(path.string(),
                         "not a token file: expected Megatron .bin with .idx, llm.c .bin, or "
                         "raw .npy");
  }
  if (file.tokens_ == 0) throw InputFileError(file.path().string(), "holds no tokens");
  return file;
}

TokenFile TokenFile::open_raw(const std::filesystem::path& path, int token_bytes) {
  TokenFile file;
  file.data_ = MappedFile(path);
  if (starts_with(file.data_, "\x93NUMPY")) {
    throw InputFileError(path.string(),
                         "is a NumPy file with a header; expected raw tokens from byte 0, as "
                         "array.tofile() writes them");
  }
  file.form_ = Form::raw;
  file.element_ = token_bytes == 2 ? Element::u16 : Element::u32;
  file.tokens_ = size_of_element(file.data_.bytes(), token_bytes, file.data_);
  return file;
}

TokenFile TokenFile::open_llm_c(const std::filesystem::path& path) {
  TokenFile file;
  file.data_ = MappedFile(path);
  const MappedFile& data = file.data_;
  struct Variant {
    std::int32_t magic, version;
    Element element;
    std::int64_t width;
  };
  constexpr std::array variants = {Variant{20240520, 1, Element::u16, 2},
                                   Variant{20240801, 7, Element::u32, 4}};
  const auto* variant = variants.end();
  if (data.bytes() >= 4) {
    variant = std::find_if(variants.begin(), variants.end(), [&](const Variant& candidate) {
      return candidate.magic == load<std::int32_t>(data.data());
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
  const std::int32_t version = load<std::int32_t>(data.data(), 1);
  if (version != variant->version) {
    throw InputFileError(path.string(), "llm.c version " + str(version) + ", expected " +
                                            str(variant->version) + " with magic number " +
                                            str(variant->magic));
  }
  file.form_ = Form::llm_c;
  file.element_ = variant->element;
  file.first_byte_ = llm_c_header_bytes;
  file.tokens_ = load<std::int32_t>(data.data(), 2);
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
  file.index_ = MappedFile(with_suffix(prefix, ".idx"));
  const MappedFile& index = file.index_;
  const std::string name = index.path().string();
  if (!starts_with(index, std::string_view("MMIDIDX\0\0", 9))) {
    throw InputFileError(name, "not a Megatron index: it does not start with MMIDIDX");
  }
  if (index.bytes() < index_header_bytes) {
    throw InputFileError(name, "truncated: " + str(index.bytes()) +
                                   " bytes, the header alone has " + str(index_header_bytes));
  }
  const auto version = load<std::uint64_t>(index.data() + 9);
  if (version != 1) {
    throw InputFileError(name,
                         "Megatron index version " + std::to_string(version) + ", expected 1");
  }
  const auto code = load<std::uint8_t>(index.data() + 17);
  std::int64_t width = 0;
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
  const auto sequences = load<std::uint64_t>(index.data() + 18);
  const auto boundaries = load<std::uint64_t>(index.data() + 26);
  // Bounded by the file's size before any product, so that nothing overflows.
  const auto bytes = static_cast<std::uint64_t>(index.bytes());
  const bool possible = sequences <= bytes / 12 && boundaries <= bytes / 8;
  const auto expected = index_header_bytes + sequences * 12 + boundaries * 8;
  if (!possible || expected != bytes) {
    throw InputFileError(
        name, "the header says " + std::to_string(sequences) + " sequences and " +
                  std::to_string(boundaries) +
                  " document boundaries, which do not fit its size of " + std::to_string(bytes) +
                  " bytes" + (possible ? " (expected " + std::to_string(expected) + ")" : ""));
  }
  file.form_ = Form::megatron;
  file.data_ = MappedFile(with_suffix(prefix, ".bin"));
  file.tokens_ = size_of_element(file.data_.bytes(), width, file.data_);
  file.check_index(static_cast<std::int64_t>(sequences), static_cast<std::int64_t>(boundaries));
  return file;
}

void TokenFile::check_index(std::int64_t sequences, std::int64_t boundaries) {
  const std::string name = index_.path().string();
  const std::byte* lengths = index_.data() + index_header_bytes;
  const std::byte* offsets = lengths + sequences * 4;
  const std::byte* documents = offsets + sequences * 8;
  const std::int64_t width = tokens_ == 0 ? 1 : data_.bytes() / tokens_;
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < sequences; ++i) {
    const std::int64_t length = load<std::int32_t>(lengths, i);
    const std::int64_t offset = load<std::int64_t>(offsets, i);
    if (length < 0 || offset != end || length * width > data_.bytes() - end) {
      throw InputFileError(name, "sequence " + str(i) + " has " + str(length) + " tokens at byte " +
                                     str(offset) + "; expected byte " + str(end) +
                                     " and an end within the " + str(data_.bytes()) + " bytes of " +
                                     data_.path().string());
    }
    end += length * width;
  }
  if (end != data_.bytes()) {
    throw InputFileError(name, "its sequences end at byte " + str(end) + ", but " +
                                   data_.path().string() + " has " + str(data_.bytes()) + " bytes");
  }
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i < boundaries; ++i) {
    const std::int64_t boundary = load<std::int64_t>(documents, i);
    if (boundary < previous || (i == 0 && boundary != 0) || boundary > sequences) {
      throw InputFileError(name, "document boundary " + str(i) + " is sequence " + str(boundary) +
                                     "; expected " +
                                     (i == 0 ? "0" : str(previous) + " to " + str(sequences)));
    }
    previous = boundary;
  }
  if (boundaries == 0 || previous != sequences) {
    throw InputFileError(
        name, "its documents end at sequence " + str(previous) + " of " + str(sequences));
  }
  sequences_ = sequences;
  documents_ = boundaries - 1;
}

std::string TokenFile::form_name() const {
  constexpr std::array forms = {"Megatron", "llm.c", "raw"};
  constexpr std::array elements = {"u8", "i8", "i16", "i32", "i64", "u16", "u32"};
  return std::string(forms[static_cast<std::size_t>(form_)]) + " " +
         elements[static_cast<std::size_t>(element_)];
}

TokenFile::Range TokenFile::document(std::int64_t i) const {
  if (i < 0 || i >= documents_) {
    throw InvalidArgument("document " + str(i) + " of " + path().string() + ", which has " +
                          str(documents_));
  }
  const std::byte* offsets = index_.data() + index_header_bytes + sequences_ * 4;
  const std::byte* boundaries = offsets + sequences_ * 8;
  const std::int64_t width = data_.bytes() / tokens_;
  const auto token_of = [&](std::int64_t sequence) {
    return sequence == sequences_ ? tokens_ : load<std::int64_t>(offsets, sequence) / width;
  };
  return {token_of(load<std::int64_t>(boundaries, i)),
          token_of(load<std::int64_t>(boundaries, i + 1))};
}

void TokenFile::read(std::int64_t begin, std::int64_t count, std::int32_t* out) const {
  if (begin < 0 || count < 0 || begin > tokens_ - count) {
    throw InvalidArgument("tokens " + str(begin) + " to " + str(begin + count) + " of " +
                          path().string() + ", which has " + str(tokens_));
  }
  with_tokens([&](const std::byte* first, auto type) {
    using T = decltype(type);
    first += begin * static_cast<std::int64_t>(sizeof(T));
    bool outside = false;
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = load<T>(first, i);
      out[i] = static_cast<std::int32_t>(value);
      outside |= out[i] < 0 || static_cast<T>(out[i]) != value;
    }
    if (outside) check_vocabulary(std::int64_t{1} << 31);
  });
}

std::uint64_t TokenFile::max_token() const {
  return with_tokens([&](const std::byte* first, auto type) {
    using T = decltype(type);
    T smallest = 0, largest = 0;
    for (std::int64_t i = 0; i < tokens_; ++i) {
      const T value = load<T>(first, i);
      smallest = std::min(smallest, value);
      largest = std::max(largest, value);
    }
    return static_cast<std::uint64_t>(std::cmp_less(smallest, 0) ? smallest : largest);
  });
}

void TokenFile::check_vocabulary(std::int64_t vocab) const {
  if (std::cmp_less(max_token(), vocab)) return;
  with_tokens([&](const std::byte* first, auto type) {
    using T = decltype(type);
    for (std::int64_t i = 0; i < tokens_; ++i) {
      const T value = load<T>(first, i);
      if (std::cmp_less(value, 0) || !std::cmp_less(value, vocab)) {
        throw InputFileError(path().string(), "token " + str(i) + " has id " +
                                                  std::to_string(value) +
                                                  "; the vocabulary allows 0 to " + str(vocab - 1));
      }
    }
  });
}

}  // namespace polymoe
