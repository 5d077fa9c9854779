// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "launch/data/tokenizer.h"

namespace polymoe {

/// Whether a path names a tokenizer.json: by its extension, or because the file starts as JSON.
bool is_huggingface_tokenizer(const std::string& path);

/// DIR/tokenizer_config.json of a DIR/tokenizer.json, and PREFIX.tokenizer_config.json of a
/// PREFIX.tokenizer.json, whether it exists or not; empty for a file of any other name.
std::string huggingface_config_beside(const std::string& path);

/// Content of such a configuration, which exists; with the template of conversations that lies
/// beside it as chat_template.jinja, which as with transformers goes before one of its own. Throws
/// InputFileError.
std::string read_huggingface_config(const std::filesystem::path& config);

/// A tokenizer.json of Hugging Face: byte-pair merges (byte-level as GPT-2, GPT-NeoX, OLMo, Llama 3
/// and Qwen have them, or with byte fallback as Llama 2 and Mistral) or a unigram model. Ids are
/// those of the `tokenizers` package without the special tokens that its post-processor puts around
/// a text; truncation and padding settings are passed over. Bytes that are no UTF-8 are encoded as
/// U+FFFD.
///
/// A document ends by the eos_token of the configuration beside the file, or else by the
/// first of the usual end tokens (<|endoftext|>, <|end_of_text|>, </s>, <eos> and the like) that it
/// has. Throws InputFileError when it cannot be read, is of a kind that is not supported, or has
/// none of these.
std::unique_ptr<Tokenizer> load_huggingface_tokenizer(const std::string& path);

/// How such a file spells the token that ends a document. Throws as loading it does.
std::string huggingface_end_token(const std::string& path);

}  // namespace polymoe
