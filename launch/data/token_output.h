// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/data/part_encoder.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "runtime/files/megatron_writer.h"

namespace polymoe {

/// Token files under construction: parts of documents are encoded on all cores, some at a time, and
/// written in order. Memory is that of these parts.
class TokenOutput {
 public:
  /// `threads` = 0: all cores. The tokenizer and the encoder must outlive it.
  TokenOutput(const std::string& prefix, const Tokenizer& tokenizer, const PartEncoder& encoder,
              bool with_mask, int threads);

  /// Throws what PartEncoder::encode does, of the first part that fails, at this or a later call.
  void add(DocumentPart part);
  /// Ends a document whose last part was not marked so.
  void end_document();
  /// Puts the files in place with their description. Returns the line that says what they hold.
  std::string finish(const TokenizerIdentity& identity);

 private:
  void encode_batch();
  void write(const EncodedPart& part, bool last);

  const std::string prefix_;
  const Tokenizer& tokenizer_;
  const PartEncoder& encoder_;
  const bool with_mask_;
  const int threads_;
  MegatronWriter writer_;
  std::vector<DocumentPart> batch_;
  std::size_t batch_bytes_ = 0;
  std::vector<PieceKind> kinds_;  // by id
  std::int64_t bytes_ = 0, replaced_ = 0, counted_ = 0, unknown_ = 0, byte_pieces_ = 0;
};

}  // namespace polymoe
