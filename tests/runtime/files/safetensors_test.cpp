// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "tests/support/compare.h"
#include "tests/support/random_tensor.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_bytes;
using test::TemporaryDirectory;
using test::write_bytes;

const fs::path fixtures = fs::path(POLYMOE_FIXTURES) / "huggingface";

const SafetensorsFile::Entry& entry_of(const SafetensorsFile& file, const std::string& name) {
  for (const auto& entry : file.entries())
    if (entry.name == name) return entry;
  throw std::runtime_error("no tensor " + name);
}

std::vector<std::uint32_t> bits_of(const SafetensorsFile& file, const std::string& name,
                                   std::int64_t begin, std::int64_t count) {
  const OwnedTensor out = test::poisoned_tensor({count}, DType::f32);
  file.read(entry_of(file, name), begin, *out);
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(count));
  if (count > 0) std::memcpy(bits.data(), out->raw(), out->bytes());
  return bits;
}

bool is_nan(std::uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

TEST(Float16, WidensEveryHalfAsTheFormulaSays) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const double fraction = bits & 0x3ff, sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    const float value = float_of_f16(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(std::signbit(value), sign < 0) << bits;
    if (exponent == 31 && fraction > 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else if (exponent == 31) {
      ASSERT_TRUE(std::isinf(value)) << bits;
    } else if (exponent == 0) {
      ASSERT_EQ(value, sign * std::ldexp(fraction, -24)) << bits;
    } else {
      ASSERT_EQ(value, sign * std::ldexp(1024.0 + fraction, exponent - 25)) << bits;
    }
  }
}

TEST(Float16, RoundsToTheNearestBfloat16AndTiesToEven) {
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    const auto pattern = static_cast<std::uint16_t>(high);
    const float exact = float_of_bf16(pattern);
    if (std::isnan(exact)) {
      ASSERT_TRUE(std::isnan(float_of_bf16(bf16_of_float(exact)))) << high;
      continue;
    }
    ASSERT_EQ(bf16_of_float(exact), pattern);
    if (std::isinf(exact)) continue;
    const auto above = static_cast<std::uint16_t>(pattern + 1);  // away from zero
    const std::uint32_t bits = high << 16;
    ASSERT_EQ(bf16_of_float(std::bit_cast<float>(bits | 0x7fffu)), pattern);
    ASSERT_EQ(bf16_of_float(std::bit_cast<float>(bits | 0x8001u)), above);
    ASSERT_EQ(bf16_of_float(std::bit_cast<float>(bits | 0x8000u)), high % 2 == 0 ? pattern : above);
  }
  // The only payload bits of this NaN are those that are cut off.
  EXPECT_TRUE(std::isnan(float_of_bf16(bf16_of_float(std::bit_cast<float>(0x7f800001u)))));
}

TEST(SafetensorsFile, ReadsWhatTheReferenceLibraryWrote) {
  const SafetensorsFile file(fixtures / "types.safetensors");
  ASSERT_EQ(file.entries().size(), 6u);
  EXPECT_EQ(entry_of(file, "f16").extents, (std::vector<std::int64_t>{4, 169}));
  EXPECT_EQ(entry_of(file, "empty").elements, 0);
  std::ifstream expected(fixtures / "types.txt");
  std::string line;
  int tensors = 0;
  while (std::getline(expected, line)) {
    std::istringstream words(line);
    std::string name, word;
    words >> name;
    std::vector<std::uint32_t> values;
    while (words >> word)
      values.push_back(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)));
    const auto count = static_cast<std::int64_t>(values.size());
    const std::vector<std::uint32_t> found = bits_of(file, name, 0, count);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (is_nan(values[i])) {
        EXPECT_TRUE(is_nan(found[i])) << name << " " << i;
      } else {
        EXPECT_EQ(found[i], values[i]) << name << " " << i;
      }
    }
    const std::vector<std::uint32_t> part = bits_of(file, name, count / 2, count - count / 2);
    EXPECT_EQ(part.back(), found.back());
    ++tensors;
  }
  EXPECT_EQ(tensors, 4);
}

TEST(SafetensorsFile, RefusesToReadOtherTypesAndBeyondTheEnd) {
  const SafetensorsFile file(fixtures / "types.safetensors");
  EXPECT_NE(message_of<InputFileError>([&] {
              bits_of(file, "integers", 0, 3);
            }).find("tensor integers is I64; must be F32, F16 or BF16"),
            std::string::npos);
  EXPECT_TRUE(bits_of(file, "empty", 0, 0).empty());
  EXPECT_THROW(bits_of(file, "f32", 0, 7), InvalidArgument);
  EXPECT_THROW(bits_of(file, "f32", 6, 1), InvalidArgument);
  EXPECT_THROW(bits_of(file, "f32", -1, 1), InvalidArgument);
  EXPECT_NO_THROW(bits_of(file, "f32", 6, 0));
}

std::string with_length(const std::string& header, const std::string& buffer = "") {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + buffer;
}

std::string refusal(const std::string& bytes) {
  const TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.safetensors";
  write_bytes(path, bytes);
  return message_of<InputFileError>([&] { const SafetensorsFile file(path); });
}

TEST(SafetensorsFile, NamesEachKindOfDamage) {
  const std::string eight(8, 'x');
  const auto tensor = [](const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
  };
  const std::string a = tensor("a", "F32", "[1]", "[0,4]"), b = tensor("b", "F32", "[1]", "[4,8]");
  ASSERT_EQ(refusal(with_length("{" + b + "," + a + "}  ", eight)), "");
  ASSERT_EQ(refusal(with_length("{}")), "");
  std::string huge = with_length("{}");
  huge[7] = '\x7f';
  std::string over = with_length("{}");
  over[3] = '\x06';  // 100,663,298 bytes
  const std::pair<std::string, std::string> cases[] = {
      {"", "at least 8"},
      {"1234567", "at least 8"},
      {huge, "at most 100000000"},
      {over, "at most 100000000"},
      {with_length("{}").substr(0, 9), "header ends at byte 10 of 9"},
      {with_length(" {}"), "does not start with '{'"},
      {with_length("[]"), "does not start with '{'"},
      {with_length(""), "does not start with '{'"},
      {with_length("{" + a, "1234"), "not the JSON expected"},
      {with_length("{" + a + "," + a + "}", "1234"), "the key \"a\" repeats"},
      {with_length("{" + a + "}", "123"), "ends at byte 4 of a buffer of 3"},
      {with_length("{" + a + "}", "12345"), "end at byte 4 of a buffer of 5"},
      {with_length("{" + b + "}", eight), "begins at byte 4 of the buffer, must begin at 0"},
      {with_length("{" + a + "," + tensor("b", "F32", "[1]", "[5,9]") + "}", eight + "1"),
       "begins at byte 5 of the buffer, must begin at 4"},
      {with_length("{" + a + "," + tensor("b", "F32", "[1]", "[2,6]") + "}", "123456"),
       "begins at byte 2 of the buffer, must begin at 4"},
      {with_length("{" + a + "," + tensor("b", "F32", "[1]", "[0,4]") + "}", "1234"),
       "must begin at 4"},
      {with_length("{" + tensor("a", "F32", "[2]", "[0,4]") + "}", "1234"), "need 8"},
      {with_length("{" + tensor("a", "F32", "[1]", "[4,0]") + "}", "1234"), "integer"},
      {with_length("{" + tensor("a", "F32", "[-1]", "[0,4]") + "}", "1234"), "integer"},
      {with_length("{" + tensor("a", "F32", "[1.0]", "[0,4]") + "}", "1234"), "integer"},
      {with_length("{" + tensor("a", "F32", "[4294967296,4294967296]", "[0,4]") + "}", "1234"),
       "more elements than can be counted"},
      {with_length("{" + tensor("a", "F32", "[4611686018427387904]", "[0,4]") + "}", "1234"),
       "more bytes than can be counted"},
      {with_length("{" + tensor("a", "F32", "[1]", "[0,4,8]") + "}", "1234"), "[begin, end]"},
      {with_length("{" + tensor("a", "F31", "[1]", "[0,4]") + "}", "1234"), "\"F31\""},
      {with_length("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "1234"), "data_offsets"},
      {with_length("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}",
                   "1234"),
       "unknown member \"x\""},
      {with_length("{\"a\":3}"), "expected an object"},
      {with_length("{\"__metadata__\":{\"a\":1}}"), "expected a string"},
      {with_length("{\"__metadata__\":[]}"), "expected an object"},
  };
  for (const auto& [bytes, cause] : cases)
    EXPECT_NE(refusal(bytes).find(cause), std::string::npos) << cause << ": " << refusal(bytes);
}

TEST(SafetensorsFile, SurvivesEveryTruncationAndFlippedBit) {
  const std::string good = read_bytes(fixtures / "types.safetensors").substr(0, 700);
  const TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.safetensors";
  const auto open = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    try {
      const SafetensorsFile file(path);
      for (const auto& entry : file.entries()) {
        ASSERT_GE(entry.begin, 8);
        ASSERT_LE(entry.begin + entry.bytes, static_cast<std::int64_t>(bytes.size()));
      }
    } catch (const InputFileError&) {
    }
  };
  const std::string whole = read_bytes(fixtures / "types.safetensors");
  for (std::size_t length = 0; length < good.size(); ++length) {
    write_bytes(path, whole.substr(0, length));
    EXPECT_THROW(const SafetensorsFile file(path), InputFileError) << length;
  }
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    open(bytes);
  }
}

TEST(SafetensorsWriter, FilesReadBackWhateverTheirSize) {
  const OwnedTensor a = test::random_tensor({7, 5}, DType::f32, "a");
  const OwnedTensor b = test::random_tensor({11}, DType::f32, "b");
  const OwnedTensor c = test::random_tensor({2, 3}, DType::f32, "c");
  for (const std::int64_t limit : {1, 150, 1 << 20}) {
    const TemporaryDirectory directory;
    SafetensorsWriter writer(directory.path(),
                             {{"a", {7, 5}}, {"none", {0, 4}}, {"b", {11}}, {"c", {2, 3}}},
                             {.dtype = SafetensorsDType::f32, .max_file_bytes = limit});
    writer.append("a", a->rows(0, 3));
    writer.append("a", a->rows(3, 7));
    writer.append("none", *OwnedTensor({0, 4}, DType::f32, Device::cpu()));
    writer.append("b", *b);
    EXPECT_THROW(writer.append("b", *b), InvalidArgument);
    EXPECT_THROW(writer.finish(), InvalidArgument);
    writer.append("c", *c);
    writer.finish();
    EXPECT_EQ(fs::exists(directory.path() / SafetensorsModel::single_name), limit == 1 << 20);
    const SafetensorsModel model(directory.path());
    ASSERT_EQ(model.tensors().size(), 4u);
    for (const auto& [name, tensor] : {std::pair("a", &a), {"b", &b}, {"c", &c}}) {
      const OwnedTensor out = test::poisoned_tensor((*tensor)->shape(), DType::f32);
      const auto* source = model.find(name);
      ASSERT_NE(source, nullptr);
      source->file->read(*source->entry, 0, *out);
      EXPECT_TRUE(test::bitwise_equal(*out, **tensor)) << name << " " << limit;
    }
  }
}

TEST(SafetensorsWriter, RoundsToBfloat16) {
  const TemporaryDirectory directory;
  const OwnedTensor values = test::random_tensor({999}, DType::f32, "values");
  SafetensorsWriter writer(directory.path(), {{"values", {999}}},
                           {.dtype = SafetensorsDType::bf16});
  writer.append("values", *values);
  writer.finish();
  const SafetensorsModel model(directory.path());
  const auto* source = model.find("values");
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->entry->dtype, "BF16");
  const OwnedTensor out = test::poisoned_tensor({999}, DType::f32);
  source->file->read(*source->entry, 0, *out);
  EXPECT_TRUE(test::all_close(*out, *values, {.relative = 0x1p-8}));
}

TEST(SafetensorsModel, HoldsTheIndexToItsFiles) {
  const auto model = [](const std::string& index) {
    const TemporaryDirectory directory;
    fs::copy(fixtures / "types.safetensors", directory.path() / "x.safetensors");
    fs::copy(fixtures / "types.safetensors", directory.path() / "y.safetensors");
    if (!index.empty()) write_bytes(directory.path() / SafetensorsModel::index_name, index);
    return message_of<InputFileError>([&] { const SafetensorsModel files(directory.path()); });
  };
  const auto index = [](const std::string& file, const std::string& more = "") {
    std::string text = "{\"metadata\":{},\"weight_map\":{";
    for (const char* name : {"f32", "f16", "bf16", "scalar", "empty", "integers"})
      text += std::string("\"") + name + "\":\"" + file + "\",";
    text.pop_back();
    return text + more + "}}";
  };
  ASSERT_EQ(model(index("x.safetensors")), "");
  const std::pair<std::string, std::string> cases[] = {
      {"", "holds neither"},
      {"{}", "weight_map"},
      {"{\"weight_map\":{}}", "weight_map is empty"},
      {index("../x.safetensors"), "must be a name without directory"},
      {index("/etc/x.safetensors"), "must be a name without directory"},
      {index("x.bin"), "must be a name without directory"},
      {index("x.safetensors\\u0000.safetensors"), "must be a name without directory"},
      {index("z.safetensors"), "cannot open"},
      {index("x.safetensors", ",\"more\":\"x.safetensors\""), "holds no tensor more"},
      {index("x.safetensors", ",\"more\":\"y.safetensors\""), "another file holds as well"},
      {"{\"weight_map\":{\"f32\":\"x.safetensors\"}}", "does not say that tensor"},
  };
  for (const auto& [text, cause] : cases)
    EXPECT_NE(model(text).find(cause), std::string::npos) << cause << ": " << model(text);
}

}  // namespace
}  // namespace polymoe
