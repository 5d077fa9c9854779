// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/files/safetensors.h"
#include "runtime/files/token_file.h"
#include "tests/fuzz/target_files.h"
#include "tests/fuzz/targets.h"

namespace polymoe::fuzz {
namespace {

namespace fs = std::filesystem;

void read_all(const SafetensorsFile& file, std::size_t bytes) {
  for (const auto& entry : file.entries()) {
    require(entry.begin >= 0 && entry.bytes >= 0 &&
                entry.begin + entry.bytes <= static_cast<std::int64_t>(bytes),
            "a tensor lies within its file");
    if (entry.dtype != "F32" && entry.dtype != "F16" && entry.dtype != "BF16") continue;
    const OwnedTensor out({entry.elements}, DType::f32, Device::cpu());
    file.read(entry, 0, *out);
  }
}

void read_all(const TokenFile& file) {
  std::vector<std::int32_t> out(1024);
  for (std::int64_t begin = 0; begin < file.tokens(); begin += 1024) {
    try {
      file.read(begin, std::min<std::int64_t>(1024, file.tokens() - begin), out.data());
    } catch (const InputFileError&) {  // an id beyond i32
    }
  }
  for (std::int64_t i = 0; i < std::min<std::int64_t>(file.documents(), 1024); ++i) {
    const TokenFile::Range range = file.document(i);
    require(0 <= range.begin && range.begin <= range.end && range.end <= file.tokens(),
            "a document lies within its file");
  }
  file.max_token();
  file.check_vocabulary(1000);
}

}  // namespace

void safetensors(std::string_view bytes) {
  const fs::path path = scratch() / "fuzz.safetensors";
  test::write_bytes(path, bytes);
  try {
    read_all(SafetensorsFile(path), bytes.size());
  } catch (const InputFileError&) {
  }
}

void safetensors_index(std::string_view bytes) {
  static const fs::path directory = [] {
    const fs::path made = scratch() / "model";
    fs::create_directories(made);
    const std::vector<std::string> files = seeds("safetensors");
    for (std::size_t i = 0; i < files.size(); ++i)
      test::write_bytes(made / ("model-0000" + std::to_string(i + 1) + "-of-0000" +
                                std::to_string(files.size()) + ".safetensors"),
                        files[i]);
    return made;
  }();
  test::write_bytes(directory / SafetensorsModel::index_name, bytes);
  try {
    const SafetensorsModel model(directory);
    for (const auto& [name, source] : model.tensors())
      require(source.file->path().parent_path() == directory, "files lie beside the index");
  } catch (const InputFileError&) {
  }
}

std::string tokens_input(TokensForm form, std::string_view tokens, std::string_view index) {
  std::string input(1, static_cast<char>(form));
  if (form == TokensForm::megatron) {
    const auto length = static_cast<std::uint16_t>(index.size());
    input.append(reinterpret_cast<const char*>(&length), sizeof length);
    input.append(index);
  }
  return input.append(tokens);
}

void tokens(std::string_view bytes) {
  if (bytes.empty()) return;
  const auto form = static_cast<TokensForm>(bytes[0] & 3);
  bytes.remove_prefix(1);
  const bool raw = form == TokensForm::npy_2 || form == TokensForm::npy_4;
  const fs::path path = scratch() / (raw ? "tokens.npy" : "tokens.bin");
  const fs::path index = scratch() / "tokens.idx";
  fs::remove(index);
  if (form == TokensForm::megatron) {
    std::uint16_t length = 0;
    if (bytes.size() < sizeof length) return;
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes.remove_prefix(sizeof length);
    test::write_bytes(index, bytes.substr(0, length));
    bytes.remove_prefix(std::min<std::size_t>(length, bytes.size()));
  }
  test::write_bytes(path, bytes);
  try {
    read_all(TokenFile::open(path, form == TokensForm::npy_4 ? 4 : 2));
  } catch (const InputFileError&) {
  }
}

}  // namespace polymoe::fuzz
