// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "moe/model_config.h"
#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/recorded_work.h"

namespace polymoe {

/// Whether steps of one token, the same work each time, are recorded on a GPU and submitted as a
/// whole (runtime/recorded_work.h), or kernel by kernel. The bits are the same.
enum class StepSubmission : std::uint8_t { recorded, by_kernel };

/// Keys and values of the positions seen so far, for generation.
class DecodingCache {
 public:
  DecodingCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device,
                StepSubmission submission = StepSubmission::recorded);
  /// Of the keys and values of one sequence of `capacity` tokens.
  static std::size_t bytes(const ModelConfig& config, std::int64_t capacity, DType dtype);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }
  /// Goes back to no positions; what was recorded stays.
  void clear() { length_ = 0; }

 private:
  friend class LanguageModel;
  struct Layer {
    OwnedTensor keys, values;  // [capacity, kv_heads, head_dim]
  };
  /// A step of one model on one stream, with the memory that it works in.
  struct Recording {
    explicit Recording(const Arena::Options& memory) : arena(memory) {}
    Arena arena;
    std::unique_ptr<RecordedWork> work;
    Tensor logits;  // [1, vocab], in the arena
    const void *model = nullptr, *stream = nullptr;
  };

  std::vector<Layer> layers_;
  // What a step reads where it always lies.
  OwnedTensor token_, position_;  // [1] i32
  OwnedTensor tickets_;           // [heads] i32
  StepSubmission submission_;
  std::size_t step_bytes_ = 0;  // of the arena, by a step; 0 = none was made yet
  std::unique_ptr<Recording> recording_;
  std::int64_t length_ = 0;
  std::int64_t capacity_ = 0;
};

}  // namespace polymoe
