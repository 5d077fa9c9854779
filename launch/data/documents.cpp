// SPDX-License-Identifier: Apache-2.0
#include "launch/data/documents.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe {

Documents::Documents(const std::vector<std::string>& paths, const std::string& separator) {
  for (const std::string& path : paths) {
    const MappedFile& file = files_.emplace_back(path);
    std::string_view text(reinterpret_cast<const char*>(file.data()),
                          static_cast<std::size_t>(file.bytes()));
    if (separator.empty()) {
      add(text);
      continue;
    }
    std::size_t document = 0;
    for (std::size_t line = 0; line < text.size();) {
      const std::size_t end = std::min(text.find('\n', line), text.size());
      std::string_view content = text.substr(line, end - line);
      if (content.ends_with('\r')) content.remove_suffix(1);
      const std::size_t next = std::min(end + 1, text.size());
      if (content == separator) {
        add(text.substr(document, line - document));
        document = next;
      }
      line = next;
    }
    add(text.substr(document));
  }
  if (texts_.empty())
    throw InputFileError(paths.empty() ? "no input" : paths.front(),
                         "holds no text, nor does any other input");
}

void Documents::add(std::string_view text) {
  if (!text.empty()) texts_.push_back(text);
}

void Documents::cut_end(double fraction) {
  if (texts_.size() != 1)
    throw InvalidArgument("the end of a text is cut off where there is one document, not " +
                          std::to_string(texts_.size()));
  const std::string_view text = texts_.front();
  const auto wanted =
      static_cast<std::size_t>(std::llround((1.0 - fraction) * static_cast<double>(text.size())));
  const std::size_t line_end = text.substr(0, wanted).rfind('\n');
  std::size_t cut = line_end == std::string_view::npos ? wanted : line_end + 1;
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  while (cut < text.size() && continues(text[cut])) ++cut;
  if (cut == 0 || cut >= text.size())
    throw InvalidArgument("--held-out: a text of " + std::to_string(text.size()) +
                          " bytes is too short to hold out its end");
  texts_ = {text.substr(0, cut), text.substr(cut)};
}

std::int64_t Documents::bytes() const {
  std::int64_t total = 0;
  for (const std::string_view text : texts_) total += static_cast<std::int64_t>(text.size());
  return total;
}

std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed) {
  if (documents < 2)
    throw InvalidArgument("--held-out: needs at least 2 documents, there is " +
                          std::to_string(documents) +
                          "; a document is a file, or what --document-separator separates");
  const auto wanted =
      static_cast<std::size_t>(std::llround(fraction * static_cast<double>(documents)));
  const std::size_t count = std::clamp<std::size_t>(wanted, 1, documents - 1);
  const RandomStream random(seed, "tokenize.held_out");
  std::vector<std::size_t> order(documents);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const std::uint64_t bits_a = random.bits(a), bits_b = random.bits(b);
    return bits_a != bits_b ? bits_a < bits_b : a < b;
  });
  std::vector<bool> held_out(documents, false);
  for (std::size_t i = 0; i < count; ++i) held_out[order[i]] = true;
  return held_out;
}

}  // namespace polymoe
