// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/rank_rows.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/dispatch_plan/rank_rows_backends.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

void check_ids(const char* operation, const ExpertRanks& ranks, const char* name,
               const Tensor& ids) {
  if (!ids.defined() || ids.shape().rank() != 2) {
    throw InvalidArgument(std::string(operation) + ": " + name + " has shape " +
                          to_string(ids.shape()) + ", expected [tokens, top_k]");
  }
  if (ranks.experts_per_rank < 1 || ranks.own < 0 || ranks.own >= ranks.ranks ||
      ranks.first_expert < 0) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(ranks.experts_per_rank) +
                          " experts per rank from " + std::to_string(ranks.first_expert) +
                          " and rank " + std::to_string(ranks.own) + " of " +
                          std::to_string(ranks.ranks) + ", expected at least 1, 0 and a rank");
  }
}

}  // namespace

void find_leaving_ranks(const ExpertRanks& ranks, const Tensor& expert_ids, const Tensor& slot_rows,
                        Tensor kept_ids, Tensor leaving_ranks, Stream& stream) {
  const char* operation = "find_leaving_ranks";
  check_ids(operation, ranks, "expert_ids", expert_ids);
  const Shape shape = expert_ids.shape();
  check_tensors(operation, stream.device(),
                {{"expert_ids", expert_ids, shape, DType::i32},
                 {"slot_rows", slot_rows, shape, DType::i32},
                 {"kept_ids", kept_ids, shape, DType::i32},
                 {"leaving_ranks", leaving_ranks, shape, DType::i32}});
  dispatch(stream.device(), [&](auto backend) {
    detail::find_leaving_ranks(backend, ranks, expert_ids, slot_rows, kept_ids, leaving_ranks,
                               stream);
  });
}

void find_home_rows(const ExpertRanks& ranks, const Tensor& kept_ids, const Tensor& leaving_rows,
                    Tensor home_rows, Tensor home_slots, Stream& stream) {
  const char* operation = "find_home_rows";
  check_ids(operation, ranks, "kept_ids", kept_ids);
  const Shape shape = kept_ids.shape();
  check_tensors(operation, stream.device(),
                {{"kept_ids", kept_ids, shape, DType::i32},
                 {"leaving_rows", leaving_rows, shape, DType::i32},
                 {"home_rows", home_rows, shape, DType::i32},
                 {"home_slots", home_slots, shape, DType::i32}});
  // A value for every slot of every row, and at most one row per slot leaves.
  const std::int64_t rows = shape[0] * (1 + shape[1]);
  if (rows > std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(shape[1], 1)) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(shape[0]) + " tokens of " +
                          std::to_string(shape[1]) +
                          " slots have more values than 2147483647; a smaller train.micro_batch "
                          "has fewer");
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::find_home_rows(backend, ranks, kept_ids, leaving_rows, home_rows, home_slots, stream);
  });
}

}  // namespace polymoe
