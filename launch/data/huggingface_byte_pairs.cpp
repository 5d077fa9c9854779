// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_byte_pairs.h"

#include <fmt/core.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "launch/data/huggingface_models.h"
#include "launch/data/huggingface_vocabulary.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

class BytePairs final : public PieceModel {
 public:
  BytePairs(const Json& model, bool byte_level) : byte_level_(byte_level) {
    if (const Json* dropout = model.find("dropout");
        dropout != nullptr && !dropout->is_null() && dropout->as_number() != 0.0)
      throw InvalidArgument(fmt::format("model: dropout {}: must be null, encoding is not random",
                                        dropout->as_number()));
    prefix_ = text_of(model, "continuing_subword_prefix", "");
    suffix_ = text_of(model, "end_of_word_suffix", "");
    fuse_unknown_ = flag_of(model, "fuse_unk");
    byte_fallback_ = flag_of(model, "byte_fallback");
    whole_words_ = flag_of(model, "ignore_merges");
    for (const Json::Member& member : model.at("vocab").members())
      vocabulary_.add(member.key, member.value.as_integer());
    if (const std::string unknown = text_of(model, "unk_token", ""); !unknown.empty())
      unknown_ = vocabulary_.id_of(unknown);
    read_merges(model.at("merges").items());
    if (!byte_level) return;
    if (!prefix_.empty() || !suffix_.empty())
      throw InvalidArgument(
          "model: continuing_subword_prefix and end_of_word_suffix are not supported together with "
          "a byte-level pre-tokenizer");
    for (std::size_t byte = 0; byte < 256; ++byte)
      byte_ids_[byte] =
          vocabulary_.id_of(byte_level_spelling(std::string(1, static_cast<char>(byte))));
  }

  std::int64_t ids() const override { return vocabulary_.size(); }
  std::int32_t id_of(std::string_view piece) const override { return vocabulary_.id_of(piece); }
  const std::string* piece_of(std::int32_t id) const override { return vocabulary_.piece_of(id); }

  void encode(std::string_view word, std::vector<std::int32_t>& ids) const override {
    if (whole_words_) {
      const std::int32_t id =
          vocabulary_.id_of(byte_level_ ? byte_level_spelling(word) : std::string(word));
      if (id >= 0) {
        ids.push_back(id);
        return;
      }
    }
    std::vector<Symbol> symbols = byte_level_ ? bytes_of(word) : characters_of(word);
    merge(symbols);
    for (std::size_t i = 0; i < symbols.size(); ++i)
      if (symbols[i].id >= 0) ids.push_back(symbols[i].id);
  }

 private:
  struct Symbol {
    std::int32_t id;  // -1: merged into the one before
    std::int32_t previous, next;
  };
  struct Merge {
    std::int32_t rank, id;
  };
  struct Candidate {
    std::int32_t rank, at, id;
    // The queue's top is the lowest rank, leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
           static_cast<std::uint32_t>(right);
  }

  void read_merges(const std::vector<Json>& merges) {
    merges_.reserve(merges.size());
    std::int32_t rank = 0;
    for (const Json& merge : merges) {
      std::string left, right;
      if (merge.is_string()) {
        const std::string& text = merge.as_string();
        const std::size_t blank = text.find(' ');
        if (blank == std::string::npos)
          throw InvalidArgument(
              fmt::format("model: merge {} '{}': must be two pieces", rank, text));
        left = text.substr(0, blank);
        right = text.substr(blank + 1);
      } else {
        if (merge.items().size() != 2)
          throw InvalidArgument(fmt::format("model: merge {}: must be two pieces", rank));
        left = merge.items()[0].as_string();
        right = merge.items()[1].as_string();
      }
      const std::int32_t left_id = vocabulary_.id_of(left), right_id = vocabulary_.id_of(right);
      const bool continues = !prefix_.empty() && right.starts_with(prefix_);
      const std::int32_t id =
          vocabulary_.id_of(left + (continues ? right.substr(prefix_.size()) : right));
      if (left_id < 0 || right_id < 0 || id < 0)
        throw InvalidArgument(fmt::format(
            "model: merge {} '{} {}': the vocabulary lacks one of its pieces or what they make",
            rank, left, right));
      merges_[key(left_id, right_id)] = {rank, id};
      ++rank;
    }
  }

  std::vector<Symbol> bytes_of(std::string_view word) const {
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    for (const char c : word) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      // A byte that the vocabulary lacks is unknown, or left out where nothing is.
      if (id >= 0 || unknown_ >= 0) append(symbols, id >= 0 ? id : unknown_);
    }
    return symbols;
  }

  std::vector<Symbol> characters_of(std::string_view word) const {
    std::vector<Symbol> symbols;
    bool unknown_pending = false;
    const auto flush = [&] {
      if (unknown_pending) append(symbols, unknown_);
      unknown_pending = false;
    };
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t begin = at;
      next_code_point(word, at);
      std::string piece(word.substr(begin, at - begin));
      if (begin > 0) piece.insert(0, prefix_);
      if (at == word.size()) piece += suffix_;
      if (const std::int32_t id = vocabulary_.id_of(piece); id >= 0) {
        flush();
        append(symbols, id);
        continue;
      }
      if (byte_fallback_) {
        if (const auto bytes = vocabulary_.fallback_ids(piece)) {
          for (const std::int32_t id : *bytes) append(symbols, id);
          continue;
        }
      }
      if (unknown_ < 0) continue;
      if (!fuse_unknown_) flush();
      unknown_pending = true;
    }
    flush();
    return symbols;
  }

  static void append(std::vector<Symbol>& symbols, std::int32_t id) {
    const auto at = static_cast<std::int32_t>(symbols.size());
    if (at > 0) symbols.back().next = at;
    symbols.push_back({.id = id, .previous = at - 1, .next = -1});
  }

  void merge(std::vector<Symbol>& symbols) const {
    std::priority_queue<Candidate> queue;
    const auto consider = [&](std::int32_t left) {
      const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
      if (symbol.next < 0) return;
      const auto found =
          merges_.find(key(symbol.id, symbols[static_cast<std::size_t>(symbol.next)].id));
      if (found != merges_.end()) queue.push({found->second.rank, left, found->second.id});
    };
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[static_cast<std::size_t>(best.at)];
      if (left.id < 0 || left.next < 0) continue;
      Symbol& right = symbols[static_cast<std::size_t>(left.next)];
      const auto found = merges_.find(key(left.id, right.id));
      if (found == merges_.end() || found->second.id != best.id) continue;  // has changed since
      left.id = best.id;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.at;
      if (left.previous >= 0) consider(left.previous);
      consider(best.at);
    }
  }

  PieceVocabulary vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::string prefix_, suffix_;
  std::int32_t unknown_ = -1;
  bool byte_level_, fuse_unknown_ = false, byte_fallback_ = false, whole_words_ = false;
};

}  // namespace

std::unique_ptr<PieceModel> make_byte_pairs(const Json& model, bool byte_level) {
  return std::make_unique<BytePairs>(model, byte_level);
}

}  // namespace polymoe
