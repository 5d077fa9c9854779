// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_unigram.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/huggingface_models.h"
#include "launch/data/huggingface_vocabulary.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

class Unigram final : public PieceModel {
 public:
  explicit Unigram(const Json& model) {
    byte_fallback_ = flag_of(model, "byte_fallback");
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
      if (const auto bytes = vocabulary_.fallback_ids(piece)) {
        ids.insert(ids.end(), bytes->begin(), bytes->end());
        return;
      }
    }
    if (unknown_ < 0)
      throw InvalidArgument(fmt::format(
          "'{}': the tokenizer's unigram model has no piece for it and no unknown id", piece));
    ids.push_back(unknown_);
  }

  PieceVocabulary vocabulary_;
  std::vector<double> scores_;
  std::size_t longest_ = 1;
  std::int32_t unknown_ = -1;
  double unknown_score_ = 0.0;
  bool byte_fallback_ = false;
};

}  // namespace

std::unique_ptr<PieceModel> make_unigram(const Json& model) {
  return std::make_unique<Unigram>(model);
}

}  // namespace polymoe
