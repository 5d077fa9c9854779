// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe::fuzz {

/// Hands bytes to one of the parsers as if they came from a stranger. Bytes that the parser refuses
/// with the error it promises, and bytes that it takes and can use, are fine; whatever else happens
/// (another exception, a crash, a report of a sanitizer) is a defect.
void configuration(std::string_view bytes);      // INI text
void json(std::string_view bytes);               // any JSON text
void manifest(std::string_view bytes);           // manifest.json, as it is and with a good hash
void safetensors(std::string_view bytes);        // one file
void safetensors_index(std::string_view bytes);  // model.safetensors.index.json
void shard(std::string_view bytes);              // an HDF5 shard whose hash the manifest confirms
void shard_hash(std::string_view bytes);         // one whose hash it does not confirm
void tokens(std::string_view bytes);             // a token file; see tokens_input

/// The name of every target.
const std::vector<std::string>& target_names();
/// Throws std::out_of_range for an unknown name.
using Target = void (*)(std::string_view bytes);
Target find_target(const std::string& name);

/// Whole inputs from which a target's mutations start.
std::vector<std::string> seeds(const std::string& target);

/// Commits a small checkpoint of that many ranks under `root`, and returns its directory.
std::filesystem::path save_sample(const std::filesystem::path& root, int ranks);

/// The forms in which `tokens` presents its bytes, by their first one.
enum class TokensForm : char { bin = 0, npy_2 = 1, npy_4 = 2, megatron = 3 };
/// An input of `tokens`: the form, for Megatron the length of the index as u16, the index, and the
/// tokens.
std::string tokens_input(TokensForm form, std::string_view tokens, std::string_view index = {});

}  // namespace polymoe::fuzz
