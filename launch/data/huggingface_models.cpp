// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_models.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t most_ids = std::int64_t{1} << 24;

/// The character of each byte.
std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    characters[byte] = printable ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}

std::string fallback_piece(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

/// Pieces and ids both ways.
class Vocabulary {
 public:
  void add(const std::string& piece, std::int64_t id) {
    if (id < 0 || id >= most_ids)
      throw InvalidArgument(
          fmt::format("model: piece '{}' has id {}: must be in [0, {})", piece, id, most_ids));
    const auto place = static_cast<std::size_t>(id);
    if (place >= pieces_.size()) pieces_.resize(place + 1, nullptr);
    // Of a piece that a list has twice the last id counts.
    const auto entry = ids_.insert_or_assign(piece, static_cast<std::int32_t>(id)).first;
    pieces_[place] = &entry->first;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(pieces_.size()); }
  std::int32_t id_of(std::string_view piece) const {
    const auto found = ids_.find(piece);
    return found == ids_.end() ? -1 : found->second;
  }
  const std::string* piece_of(std::int32_t id) const {
    return id < 0 || id >= size() ? nullptr : pieces_[static_cast<std::size_t>(id)];
  }

 private:
  // Finds a view without a copy of it.
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> pieces_;  // keys of ids_
};

std::string text_or(const Json& json, const char* key, const std::string& otherwise) {
  const Json* value = json.find(key);
  return value == nullptr || value->is_null() ? otherwise : value->as_string();
}
bool flag(const Json& json, const char* key) {
  const Json* value = json.find(key);
  return value != nullptr && !value->is_null() && value->as_bool();
}

/// Byte-pair merges: a word starts as characters, and the pair of the lowest rank becomes one piece
/// until no pair has a rank.
class BytePairs final : public PieceModel {
 public:
  BytePairs(const Json& model, bool byte_level) : byte_level_(byte_level) {
    if (const Json* dropout = model.find("dropout");
        dropout != nullptr && !dropout->is_null() && dropout->as_number() != 0.0)
      throw InvalidArgument(fmt::format("model: dropout {}: must be null, encoding is not random",
                                        dropout->as_number()));
    prefix_ = text_or(model, "continuing_subword_prefix", "");
    suffix_ = text_or(model, "end_of_word_suffix", "");
    fuse_unknown_ = flag(model, "fuse_unk");
    byte_fallback_ = flag(model, "byte_fallback");
    whole_words_ = flag(model, "ignore_merges");
    for (const Json::Member& member : model.at("vocab").members())
      vocabulary_.add(member.key, member.value.as_integer());
    if (const std::string unknown = text_or(model, "unk_token", ""); !unknown.empty())
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
        std::vector<std::int32_t> bytes;
        for (const char c : piece)
          bytes.push_back(vocabulary_.id_of(fallback_piece(static_cast<unsigned char>(c))));
        if (std::find(bytes.begin(), bytes.end(), -1) == bytes.end()) {
          for (const std::int32_t id : bytes) append(symbols, id);
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

  Vocabulary vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::string prefix_, suffix_;
  std::int32_t unknown_ = -1;
  bool byte_level_, fuse_unknown_ = false, byte_fallback_ = false, whole_words_ = false;
};

/// The cut of a word into pieces whose scores have the largest sum.
class Unigram final : public PieceModel {
 public:
  explicit Unigram(const Json& model) {
    byte_fallback_ = flag(model, "byte_fallback");
    std::int64_t id = 0;
    double least = std::numeric_limits<double>::infinity();
    for (const Json& entry : model.at("vocab").items()) {
      if (entry.items().size() != 2)
        throw InvalidArgument(
            fmt::format("model: vocab entry {}: must be a piece and a score", id));
      const std::string& piece = entry.items()[0].as_string();
      vocabulary_.add(piece, id++);
      scores_.push_back(entry.items()[1].as_number());
      least = std::min(least, scores_.back());
      longest_ = std::max(longest_, piece.size());
    }
    if (const Json* unknown = model.find("unk_id"); unknown != nullptr && !unknown->is_null())
      unknown_ = static_cast<std::int32_t>(unknown->as_integer(0, id - 1));
    constexpr double penalty = 10.0;  // of a character that no piece covers
    unknown_score_ = least - penalty;
  }

  std::int64_t ids() const override { return vocabulary_.size(); }
  std::int32_t id_of(std::string_view piece) const override { return vocabulary_.id_of(piece); }
  const std::string* piece_of(std::int32_t id) const override { return vocabulary_.piece_of(id); }

  void encode(std::string_view word, std::vector<std::int32_t>& ids) const override {
    const std::vector<Arrival> best = best_arrivals(word);
    // Unknown characters that touch are one piece.
    std::vector<std::string_view> pieces;
    std::size_t unknown_end = 0;
    for (std::size_t end = word.size(); end > 0;) {
      const Arrival& arrival = best[end];
      const bool unknown = arrival.id < 0;
      if (unknown && unknown_end == 0) unknown_end = end;
      const bool unknown_before = unknown && arrival.begin > 0 && best[arrival.begin].id < 0;
      if (!unknown) {
        pieces.push_back(word.substr(arrival.begin, end - arrival.begin));
      } else if (!unknown_before) {
        pieces.push_back(word.substr(arrival.begin, unknown_end - arrival.begin));
        unknown_end = 0;
      }
      end = arrival.begin;
    }
    std::reverse(pieces.begin(), pieces.end());
    for (const std::string_view piece : pieces) append(piece, ids);
  }

 private:
  struct Arrival {
    double score = -std::numeric_limits<double>::infinity();
    std::size_t begin = 0;
    std::int32_t id = -1;  // of no piece: an unknown character
    bool reached = false;
  };

  std::vector<Arrival> best_arrivals(std::string_view word) const {
    std::vector<Arrival> best(word.size() + 1);
    best[0].score = 0.0;
    for (std::size_t begin = 0; begin < word.size();) {
      std::size_t next = begin;
      next_code_point(word, next);
      const double here = best[begin].score;
      const auto arrive = [&](std::size_t end, double score, std::int32_t id) {
        if (!best[end].reached || here + score > best[end].score)
          best[end] = {.score = here + score, .begin = begin, .id = id, .reached = true};
      };
      bool single = false;
      const std::size_t furthest = std::min(word.size(), begin + longest_);
      for (std::size_t end = next; end <= furthest;) {
        const std::int32_t id = vocabulary_.id_of(word.substr(begin, end - begin));
        if (id >= 0) {
          arrive(end, scores_[static_cast<std::size_t>(id)], id == unknown_ ? -1 : id);
          single = single || end == next;
        }
        if (end == word.size()) break;
        next_code_point(word, end);
      }
      if (!single) arrive(next, unknown_score_, -1);
      begin = next;
    }
    return best;
  }

  void append(std::string_view piece, std::vector<std::int32_t>& ids) const {
    if (const std::int32_t id = vocabulary_.id_of(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
    if (byte_fallback_) {
      std::vector<std::int32_t> bytes;
      for (const char c : piece)
        bytes.push_back(vocabulary_.id_of(fallback_piece(static_cast<unsigned char>(c))));
      if (std::find(bytes.begin(), bytes.end(), -1) == bytes.end()) {
        ids.insert(ids.end(), bytes.begin(), bytes.end());
        return;
      }
    }
    if (unknown_ < 0)
      throw InvalidArgument(fmt::format(
          "'{}': the tokenizer's unigram model has no piece for it and no unknown id", piece));
    ids.push_back(unknown_);
  }

  Vocabulary vocabulary_;
  std::vector<double> scores_;
  std::size_t longest_ = 1;
  std::int32_t unknown_ = -1;
  double unknown_score_ = 0.0;
  bool byte_fallback_ = false;
};

}  // namespace

std::string byte_level_spelling(std::string_view bytes) {
  static const std::array<char32_t, 256> characters = byte_characters();
  std::string spelling;
  for (const char c : bytes) append_code_point(spelling, characters[static_cast<unsigned char>(c)]);
  return spelling;
}

std::string byte_level_bytes(std::string_view spelling) {
  static const std::unordered_map<char32_t, char> bytes_by_character = [] {
    std::unordered_map<char32_t, char> map;
    const std::array<char32_t, 256> characters = byte_characters();
    for (std::size_t byte = 0; byte < 256; ++byte) map[characters[byte]] = static_cast<char>(byte);
    return map;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < spelling.size();) {
    const auto found = bytes_by_character.find(next_code_point(spelling, at));
    if (found == bytes_by_character.end()) return std::string(spelling);
    bytes += found->second;
  }
  return bytes;
}

int fallback_byte(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const auto digit = std::string_view("0123456789ABCDEF").find(c);
    if (digit == std::string_view::npos) return -1;
    value = value * 16 + static_cast<int>(digit);
  }
  return value;
}

std::unique_ptr<PieceModel> make_piece_model(const Json& model, bool byte_level) {
  // Old files of byte pairs do not name their kind.
  const std::string type = text_or(model, "type", model.find("merges") != nullptr ? "BPE" : "");
  if (type == "BPE") return std::make_unique<BytePairs>(model, byte_level);
  if (type == "Unigram") {
    if (byte_level)
      throw InvalidArgument(
          "model Unigram is not supported together with a byte-level pre-tokenizer");
    return std::make_unique<Unigram>(model);
  }
  throw InvalidArgument(fmt::format("model '{}' is not supported: must be BPE or Unigram", type));
}

}  // namespace polymoe
