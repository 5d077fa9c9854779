// SPDX-License-Identifier: Apache-2.0
// One token's part of rank_rows, the same on both backends.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define POLYMOE_ON_BOTH __host__ __device__
#else
#define POLYMOE_ON_BOTH
#endif

namespace polymoe::detail {

/// The slots of one token.
struct TokenSlots {
  int top_k;
  int experts_per_rank;
  int own;
  int first_expert;
  int experts;  // of the group

  POLYMOE_ON_BOTH int rank_of(std::int32_t expert) const { return expert / experts_per_rank; }

  /// The slot that sends the token to the rank of slot j's expert: the first with one there.
  POLYMOE_ON_BOTH int first_of_rank(const std::int32_t* kept_ids, int j) const {
    int first = 0;
    while (kept_ids[first] < 0 || rank_of(kept_ids[first]) != rank_of(kept_ids[j])) ++first;
    return first;
  }

  POLYMOE_ON_BOTH void find_leaving_ranks(const std::int32_t* expert_ids,
                                          const std::int32_t* slot_rows, std::int32_t* kept_ids,
                                          std::int32_t* leaving_ranks) const {
    for (int j = 0; j < top_k; ++j) {
      const std::int32_t expert = expert_ids[j] - first_expert;
      kept_ids[j] = slot_rows[j] < 0 || expert < 0 || expert >= experts ? -1 : expert;
      const bool elsewhere = kept_ids[j] >= 0 && rank_of(kept_ids[j]) != own;
      leaving_ranks[j] = elsewhere && first_of_rank(kept_ids, j) == j ? rank_of(kept_ids[j]) : -1;
    }
  }

  /// `own_row` is the token's, behind the `tokens` of which the rows that left are counted. From
  /// the last slot to the first: a slot reads what is written for later ones only before.
  POLYMOE_ON_BOTH void find_home_rows(std::int32_t own_row, std::int32_t tokens,
                                      const std::int32_t* kept_ids,
                                      const std::int32_t* leaving_rows, std::int32_t* home_rows,
                                      std::int32_t* home_slots) const {
    for (int j = top_k - 1; j >= 0; --j) {
      std::int32_t row = -1, slot = -1;
      if (kept_ids[j] >= 0) {
        const int first = first_of_rank(kept_ids, j);
        const std::int32_t of_rank =
            rank_of(kept_ids[j]) == own ? own_row : tokens + leaving_rows[first];
        slot = of_rank * top_k + j;
        if (first == j) row = of_rank;
      }
      home_rows[j] = row;
      home_slots[j] = slot;
    }
  }
};

}  // namespace polymoe::detail
