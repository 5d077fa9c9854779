// SPDX-License-Identifier: Apache-2.0
#include "launch/data/token_output.h"

#include <fmt/core.h>
#include <omp.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/data/document_stream.h"
#include "launch/data/part_encoder.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "launch/data/window_counts.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

constexpr std::size_t most_batch_bytes = std::size_t{16} << 20;
constexpr std::size_t most_batch_parts = 1024;

std::string percent(std::int64_t part, std::int64_t all) {
  return fmt::format("{:.2f} %",
                     all == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(all));
}

}  // namespace

TokenOutput::TokenOutput(const std::string& prefix, const Tokenizer& tokenizer,
                         const PartEncoder& encoder, bool with_mask, int threads)
    : prefix_(prefix),
      tokenizer_(tokenizer),
      encoder_(encoder),
      with_mask_(with_mask),
      threads_(threads > 0 ? threads : omp_get_max_threads()),
      writer_(prefix, tokenizer.vocab(), with_mask) {
  for (std::int64_t id = 0; id < tokenizer.vocab(); ++id)
    kinds_.push_back(tokenizer.kind_of(static_cast<std::int32_t>(id)));
}

void TokenOutput::add(DocumentPart part) {
  batch_bytes_ += part.text.size();
  batch_.push_back(std::move(part));
  if (batch_bytes_ >= most_batch_bytes || batch_.size() >= most_batch_parts) encode_batch();
}

void TokenOutput::encode_batch() {
  std::vector<EncodedPart> encoded(batch_.size());
  std::vector<std::exception_ptr> failures(batch_.size());  // none may leave the parallel loop
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    try {
      encoded[i] = encoder_.encode(batch_[i], tokenizer_);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  }
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    write(encoded[i], batch_[i].last);
  }
  batch_.clear();
  batch_bytes_ = 0;
}

void TokenOutput::write(const EncodedPart& part, bool last) {
  writer_.append(part.ids, part.counted);
  if (last) writer_.end_document();
  bytes_ += part.bytes;
  replaced_ += part.replaced;
  for (const std::uint8_t counted : part.counted) counted_ += counted;
  for (const std::int32_t id : part.ids) {
    const PieceKind kind = kinds_[static_cast<std::size_t>(id)];
    unknown_ += kind == PieceKind::unknown;
    byte_pieces_ += kind == PieceKind::byte;
  }
}

void TokenOutput::end_document() {
  encode_batch();
  const std::int32_t end = tokenizer_.end_of_document();
  const std::uint8_t counted = 0;
  writer_.append({&end, 1}, {&counted, with_mask_ ? std::size_t{1} : std::size_t{0}});
  writer_.end_document();
}

std::string TokenOutput::finish(const TokenizerIdentity& identity) {
  encode_batch();
  const std::filesystem::path counts = prefix_ + ".windows";
  std::error_code ignored;
  std::filesystem::remove(counts, ignored);  // of what lay there
  writer_.finish();
  describe_tokens({.tokenizer = identity,
                   .end_of_document = tokenizer_.end_of_document(),
                   .documents = writer_.documents(),
                   .tokens = writer_.tokens()},
                  prefix_);
  if (writer_.documents() >= least_kept_documents) {
    const TokenFile file = TokenFile::open(prefix_ + ".bin", 2);
    write_window_counts(counts, file, count_windows(file, usual_contexts()));
  }
  const std::int64_t tokens = writer_.tokens();
  std::string line = fmt::format(
      "{}.bin: {} document{}, {} tokens of {} bytes ({:.3f} tokens a byte); unknown {}, bytes for "
      "rare characters {}",
      prefix_, with_separators(writer_.documents()), writer_.documents() == 1 ? "" : "s",
      with_separators(tokens), with_separators(bytes_),
      bytes_ == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(bytes_),
      percent(unknown_, tokens), percent(byte_pieces_, tokens));
  if (with_mask_) line += fmt::format("; {} of the tokens count", percent(counted_, tokens));
  if (replaced_ > 0)
    line += fmt::format("; {} places that were no UTF-8 replaced", with_separators(replaced_));
  return line + "\n";
}

}  // namespace polymoe
