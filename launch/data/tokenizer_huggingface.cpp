// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer_huggingface.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "launch/data/huggingface_added_tokens.h"
#include "launch/data/huggingface_models.h"
#include "launch/data/huggingface_text_frame.h"
#include "launch/data/huggingface_text_rules.h"
#include "launch/data/huggingface_vocabulary.h"
#include "launch/data/tokenizer.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t most_file_bytes = std::int64_t{1} << 30;

std::vector<AddedToken> read_added_tokens(const Json* json, const PieceModel& model) {
  std::vector<AddedToken> tokens;
  if (json == nullptr || json->is_null()) return tokens;
  for (const Json& item : json->items()) {
    const auto flag = [&](const char* key) {
      const Json* value = item.find(key);
      return value != nullptr && value->as_bool();
    };
    AddedToken token{.id = static_cast<std::int32_t>(item.at("id").as_integer(0, (1 << 24) - 1)),
                     .content = item.at("content").as_string(),
                     .single_word = flag("single_word"),
                     .strip_left = flag("lstrip"),
                     .strip_right = flag("rstrip"),
                     .normalized = flag("normalized"),
                     .special = flag("special")};
    // The model's id is the one that counts.
    if (const std::int32_t id = model.id_of(token.content); id >= 0) token.id = id;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// The end token that a tokenizer_config.json names: a text, or an object that holds it.
std::string configured_end(const std::string& path) {
  if (path.empty() || !std::filesystem::exists(path)) return "";
  const Json config = parse_json(read_file(path, most_file_bytes), path);
  const Json* end = config.find("eos_token");
  if (end == nullptr || end->is_null()) return "";
  return end->is_object() ? end->at("content").as_string() : end->as_string();
}

class HuggingFaceTokenizer final : public Tokenizer {
 public:
  HuggingFaceTokenizer(const Json& json, const std::string& end)
      : normalizer_(make_normalizer(json.find("normalizer"))),
        normalizer_within_(make_normalizer_within(json.find("normalizer"))),
        words_(make_word_rule(json.find("pre_tokenizer"))),
        model_(make_piece_model(json.at("model"), words_.byte_level)),
        decoding_(make_decoding(json.find("decoder"))),
        frame_(read_text_frame(json.find("post_processor"))),
        added_(read_added_tokens(json.find("added_tokens"), *model_)),
        raw_finder_(added_, false, nullptr),
        normalized_finder_(added_, true, normalizer_) {
    vocab_ = model_->ids();
    for (const AddedToken& token : added_) {
      vocab_ = std::max<std::int64_t>(vocab_, token.id + 1);
      // A token that is found after normalisation stands for its text in that form.
      std::string text = token.special ? "" : token.content;
      if (token.normalized && normalizer_) normalizer_(text);
      added_text_[token.id] = text;
    }
    for (const auto* ids : {&frame_.before, &frame_.after})
      for (const std::int32_t id : *ids)
        if (id >= vocab_)
          throw InvalidArgument(
              fmt::format("post_processor: the id {} is beyond the tokenizer's {}", id, vocab_));
    set_end(end);
  }

  std::int64_t vocab() const override { return vocab_; }
  std::int32_t end_of_document() const override { return end_id_; }
  std::vector<std::int32_t> before_text() const override { return frame_.before; }
  std::vector<std::int32_t> after_text() const override { return frame_.after; }
  const std::string& end_token() const { return end_token_; }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    encode(text, {.starts_text = true, .goes_on = false}, ids);
  }
  void encode_on(std::string_view text, std::vector<std::int32_t>& ids) const override {
    // Behind a mark a text begins anew.
    const bool behind_text = !ids.empty() && !added_text_.contains(ids.back());
    encode(text, {.starts_text = ids.empty(), .goes_on = behind_text}, ids);
  }

  PieceKind kind_of(std::int32_t id) const override {
    const std::string* piece = model_->piece_of(id);
    if (piece == nullptr || added_text_.contains(id)) return PieceKind::text;
    if (fallback_byte(*piece) >= 0) return PieceKind::byte;
    return *piece == "<unk>" || *piece == "[UNK]" ? PieceKind::unknown : PieceKind::text;
  }

  std::string bytes_of(std::int32_t id) const override {
    std::vector<std::string> pieces;
    add_piece(id, pieces);
    return decoded(decoding_.within, pieces);
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<std::string> pieces;
    for (const std::int32_t id : ids) add_piece(id, pieces);
    return valid_utf8(decoded(decoding_.whole, pieces));
  }

 private:
  /// What stands before a text.
  struct Front {
    bool starts_text, goes_on;
  };

  void encode(std::string_view text, Front front, std::vector<std::int32_t>& ids) const {
    std::string mended;
    if (!is_valid_utf8(text)) {
      mended = valid_utf8(text);
      text = mended;
    }
    const auto take = [&](std::int32_t id) { ids.push_back(id); };
    raw_finder_.split(text, take, [&](std::string_view part, std::size_t at) {
      const bool goes_on = front.goes_on && at == 0;
      const Normalizer& normalizer = goes_on ? normalizer_within_ : normalizer_;
      std::string changed;
      if (normalizer) {
        changed = part;
        normalizer(changed);
        part = changed;
      }
      normalized_finder_.split(part, take, [&](std::string_view piece, std::size_t within) {
        const bool first = at + within == 0;
        encode_words(piece,
                     {.starts_text = front.starts_text && first, .goes_on = goes_on && first}, ids);
      });
    });
  }

  void encode_words(std::string_view piece, Front front, std::vector<std::int32_t>& ids) const {
    TextPieces text;
    text.pieces.push_back(
        {.text = piece, .starts_text = front.starts_text, .goes_on = front.goes_on});
    if (words_.cut) words_.cut(text);
    // Most words of a text come again; the views live as long as the text's pieces.
    constexpr std::size_t most_words = 1 << 16, longest_word = 64;
    std::unordered_map<std::string_view, std::vector<std::int32_t>> known;
    for (const TextPieces::Piece& word : text.pieces) {
      if (word.text.size() > longest_word) {
        model_->encode(word.text, ids);
        continue;
      }
      auto found = known.find(word.text);
      if (found == known.end()) {
        if (known.size() == most_words) known.clear();
        found = known.emplace(word.text, std::vector<std::int32_t>()).first;
        model_->encode(word.text, found->second);
      }
      ids.insert(ids.end(), found->second.begin(), found->second.end());
    }
  }

  /// Nothing for special tokens and ids between the model's and the added ones.
  void add_piece(std::int32_t id, std::vector<std::string>& pieces) const {
    if (id < 0 || id >= vocab_)
      throw InvalidArgument(fmt::format("token {}: the tokenizer has ids 0 to {}", id, vocab_ - 1));
    if (const auto added = added_text_.find(id); added != added_text_.end()) {
      if (!added->second.empty()) pieces.push_back(added->second);
    } else if (const std::string* piece = model_->piece_of(id)) {
      pieces.push_back(*piece);
    }
  }

  static std::string decoded(const PieceDecoder& decode, std::vector<std::string>& pieces) {
    if (pieces.empty()) return "";
    if (decode) decode(pieces);
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    return text;
  }

  void set_end(const std::string& configured) {
    static const std::vector<std::string> usual = {"<|endoftext|>",
                                                   "<|end_of_text|>",
                                                   "</s>",
                                                   "<eos>",
                                                   "<|eos|>",
                                                   "[EOS]",
                                                   "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"};
    const auto id_of = [&](const std::string& name) {
      for (const AddedToken& token : added_)
        if (token.content == name) return token.id;
      return model_->id_of(name);
    };
    const std::vector<std::string> names = configured.empty() ? usual : std::vector{configured};
    for (const std::string& name : names) {
      end_id_ = id_of(name);
      end_token_ = name;
      if (end_id_ >= 0) return;
    }
    if (!configured.empty())
      throw InvalidArgument(fmt::format(
          "has no token '{}', which tokenizer_config.json names as its eos_token", configured));
    throw InvalidArgument(fmt::format(
        "has none of the tokens {} to end documents; a tokenizer_config.json beside it may name "
        "one (eos_token)",
        fmt::join(usual, " ")));
  }

  Normalizer normalizer_, normalizer_within_;
  WordRule words_;
  std::unique_ptr<PieceModel> model_;
  Decoding decoding_;
  TextFrame frame_;
  std::vector<AddedToken> added_;
  AddedTokenFinder raw_finder_, normalized_finder_;
  std::unordered_map<std::int32_t, std::string> added_text_;  // empty for special ones
  std::int64_t vocab_ = 0;
  std::int32_t end_id_ = -1;
  std::string end_token_;
};

std::unique_ptr<HuggingFaceTokenizer> load_file(const std::string& path) {
  const Json json = parse_json(read_file(path, most_file_bytes), path);
  if (!json.is_object() || json.find("model") == nullptr)
    throw InputFileError(path, "is not a tokenizer.json of Hugging Face: it has no model");
  const std::string end = configured_end(huggingface_config_beside(path));
  try {
    return std::make_unique<HuggingFaceTokenizer>(json, end);
  } catch (const InvalidArgument& error) {
    throw InputFileError(path, error.what());
  }
}

}  // namespace

bool is_huggingface_tokenizer(const std::string& path) {
  if (path.ends_with(".json")) return true;
  std::ifstream file(path, std::ios::binary);
  return file && file.get() == '{';
}

std::string huggingface_config_beside(const std::string& path) {
  constexpr std::string_view name = "tokenizer.json";
  if (!path.ends_with(name)) return "";
  return path.substr(0, path.size() - name.size()) + "tokenizer_config.json";
}

std::string read_huggingface_config(const std::filesystem::path& config) {
  std::string text = read_file(config, most_file_bytes);
  const std::filesystem::path beside = config.parent_path() / "chat_template.jinja";
  if (config.filename() != "tokenizer_config.json" || !std::filesystem::exists(beside)) return text;
  const Json json = parse_json(text, config.string());
  if (!json.is_object()) return text;
  Json whole = Json::object();
  for (const Json::Member& member : json.members())
    if (member.key != "chat_template") whole.set(member.key, member.value);
  whole.set("chat_template", read_file(beside, most_file_bytes));
  return whole.dump_indented();
}

std::unique_ptr<Tokenizer> load_huggingface_tokenizer(const std::string& path) {
  return load_file(path);
}

std::string huggingface_end_token(const std::string& path) { return load_file(path)->end_token(); }

}  // namespace polymoe
