// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "launch/data/huggingface_text_rules.h"
#include "launch/data/huggingface_vocabulary.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

using Pieces = std::vector<std::string>;

void replace_all(std::string& text, const std::string& what, const std::string& by) {
  if (what.empty()) return;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

void join(Pieces& pieces) {
  pieces = {std::accumulate(pieces.begin(), pieces.end(), std::string())};
}

Decoding piece_by_piece(const std::function<void(std::string&)>& change) {
  const PieceDecoder decode = [change](Pieces& pieces) {
    for (std::string& piece : pieces) change(piece);
  };
  return {.whole = decode, .within = decode};
}

/// Runs of byte pieces become text where they are UTF-8, else a U+FFFD for every byte.
void bytes_to_text(Pieces& pieces) {
  Pieces result;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes))
      result.push_back(bytes);
    else
      result.insert(result.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (std::string& piece : pieces) {
    if (const int byte = fallback_byte(piece); byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    flush();
    result.push_back(std::move(piece));
  }
  flush();
  pieces = std::move(result);
}

Decoding byte_fallback() {
  return {.whole = bytes_to_text, .within = [](Pieces& pieces) {
            for (std::string& piece : pieces)
              if (const int byte = fallback_byte(piece); byte >= 0)
                piece.assign(1, static_cast<char>(byte));
          }};
}

Decoding strip(const Json& json) {
  std::string content;
  append_code_point(content, only_code_point(json.at("content").as_string()));
  const std::int64_t start = json.at("start").as_integer(0), stop = json.at("stop").as_integer(0);
  return {.whole =
              [content, start, stop](Pieces& pieces) {
                for (std::string& piece : pieces) {
                  for (std::int64_t i = 0; i < start && piece.starts_with(content); ++i)
                    piece.erase(0, content.size());
                  for (std::int64_t i = 0; i < stop && piece.ends_with(content); ++i)
                    piece.resize(piece.size() - content.size());
                }
              },
          .within = nullptr};
}

Decoding metaspace(const Json& json) {
  const std::string mark = json.at("replacement").as_string();
  const Json* scheme = json.find("prepend_scheme");
  const Json* prefix = json.find("add_prefix_space");
  const bool prepended = scheme != nullptr   ? scheme->as_string() != "never"
                         : prefix != nullptr ? prefix->as_bool()
                                             : true;
  Decoding decoding = piece_by_piece([mark](std::string& piece) { replace_all(piece, mark, " "); });
  decoding.whole = [mark, prepended, blanks = decoding.within](Pieces& pieces) {
    if (prepended && !pieces.empty()) replace_all(pieces.front(), mark, "");
    blanks(pieces);
  };
  return decoding;
}

Decoding sequence(const Json& json) {
  std::vector<PieceDecoder> whole, within;
  for (const Json& item : json.at("decoders").items()) {
    const Decoding step = make_decoding(&item);
    if (step.whole) whole.push_back(step.whole);
    if (step.within) within.push_back(step.within);
  }
  const auto all = [](std::vector<PieceDecoder> steps) -> PieceDecoder {
    return [steps = std::move(steps)](Pieces& pieces) {
      for (const PieceDecoder& step : steps) step(pieces);
    };
  };
  return {.whole = all(whole), .within = all(within)};
}

Decoding suffix_of_words(const Json& json) {
  const Json* named = json.find("suffix");
  const std::string suffix = named != nullptr ? named->as_string() : "</w>";
  Decoding decoding =
      piece_by_piece([suffix](std::string& piece) { replace_all(piece, suffix, " "); });
  decoding.whole = [suffix, blanks = decoding.within](Pieces& pieces) {
    if (!pieces.empty()) replace_all(pieces.back(), suffix, "");
    blanks(pieces);
  };
  return decoding;
}

}  // namespace

Decoding make_decoding(const Json* json) {
  // Without a decoder, pieces are words.
  if (json == nullptr || json->is_null()) {
    Decoding decoding = piece_by_piece([](std::string& piece) { piece.insert(0, " "); });
    decoding.whole = [blanks = decoding.within](Pieces& pieces) {
      blanks(pieces);
      if (!pieces.empty()) pieces.front().erase(0, 1);
    };
    return decoding;
  }
  const std::string& type = json->at("type").as_string();
  if (type == "Sequence") return sequence(*json);
  if (type == "ByteLevel")
    return piece_by_piece([](std::string& piece) { piece = byte_level_bytes(piece); });
  if (type == "ByteFallback") return byte_fallback();
  if (type == "Fuse") return {.whole = join, .within = nullptr};
  if (type == "Strip") return strip(*json);
  if (type == "Metaspace") return metaspace(*json);
  if (type == "BPEDecoder") return suffix_of_words(*json);
  if (type == "Replace") {
    const Json* literal = json->at("pattern").find("String");
    if (literal == nullptr)
      throw InvalidArgument("decoder Replace: pattern: only a String is supported");
    return piece_by_piece([what = literal->as_string(), by = json->at("content").as_string()](
                              std::string& piece) { replace_all(piece, what, by); });
  }
  throw InvalidArgument(
      fmt::format("decoder '{}' is not supported: must be Sequence, ByteLevel, ByteFallback, Fuse, "
                  "Strip, Metaspace, BPEDecoder or Replace",
                  type));
}

}  // namespace polymoe
