// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/scoring_batch.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "launch/evaluation/scoring_pass.h"

namespace polymoe {
namespace {

/// What sequences share counts in multiples of this.
constexpr std::int64_t known_step = 8;

/// What a group costs in attention, in what a place does, whose key and value are copied there. A
/// query is copied there and back, and some 128 keys of it cost as much again (2048 columns on an
/// H200, by bytes and operations).
double cost_of(std::size_t sequences, std::int64_t length, std::int64_t known) {
  constexpr double keys_of_a_copy = 128.0;
  const auto keys = static_cast<double>(length), queries = static_cast<double>(length - known);
  return static_cast<double>(sequences) * (keys + queries * (1.0 + keys / keys_of_a_copy));
}
double cost_of(const SequenceGroup& one) {
  return cost_of(one.sequences.size(), one.length, one.known);
}
/// How much more a group of both costs than they do apart, but for the call.
double cost_of_merging(const SequenceGroup& a, const SequenceGroup& b) {
  return cost_of(a.sequences.size() + b.sequences.size(), std::max(a.length, b.length),
                 std::min(a.known, b.known)) -
         cost_of(a) - cost_of(b);
}
std::int64_t padding_of_merging(const SequenceGroup& a, const SequenceGroup& b) {
  const SequenceGroup& shorter = a.length < b.length ? a : b;
  return std::ssize(shorter.sequences) * std::abs(a.length - b.length);
}
/// What a call costs besides: some 20 us, at whose end few blocks are left to a GPU.
constexpr double cost_of_call = 4096.0;

void merge(const SequenceGroup& from, SequenceGroup& to) {
  to.length = std::max(to.length, from.length);
  to.known = std::min(to.known, from.known);
  to.sequences.insert(to.sequences.end(), from.sequences.begin(), from.sequences.end());
}

}  // namespace

std::vector<SequenceGroup> groups_of(std::span<const SharingSequence> sequences,
                                     std::int64_t most_places) {
  // Few to begin with: by length, and by the power of two of what a sequence has of its own.
  std::map<std::pair<std::int64_t, int>, SequenceGroup> fine;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const auto& [length, shared] = sequences[s];
    if (shared >= length) continue;
    const std::int64_t known = shared / known_step * known_step;
    const auto own = static_cast<std::uint64_t>(length - known);
    SequenceGroup& one = fine[{length_step(length), std::bit_width(own)}];
    one.known = one.sequences.empty() ? known : std::min(one.known, known);
    one.length = std::max(one.length, length);
    one.sequences.push_back(s);
  }
  std::vector<SequenceGroup> groups;
  for (auto& [kind, one] : fine) groups.push_back(std::move(one));
  std::int64_t places = 0;
  for (const SequenceGroup& one : groups) places += one.places();
  // The two whose union costs least more than they do apart, as long as that is less than a call.
  while (groups.size() > 1) {
    double least = cost_of_call;
    std::optional<std::pair<std::size_t, std::size_t>> nearest;
    for (std::size_t a = 0; a < groups.size(); ++a) {
      for (std::size_t b = a + 1; b < groups.size(); ++b) {
        const double more = cost_of_merging(groups[a], groups[b]);
        if (more >= least || places + padding_of_merging(groups[a], groups[b]) > most_places)
          continue;
        least = more;
        nearest = {a, b};
      }
    }
    if (!nearest) break;
    places += padding_of_merging(groups[nearest->first], groups[nearest->second]);
    merge(groups[nearest->second], groups[nearest->first]);
    groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(nearest->second));
  }
  for (SequenceGroup& one : groups) std::ranges::sort(one.sequences);
  return groups;
}

ScoringBatch::ScoringBatch(const std::vector<LikelihoodRequest>& requests, const ScoringPass& pass,
                           const ScoringCut& cut) {
  // The rows of each sequence. Requests are in the order of their inputs: what one has in common
  // with those before it, it has in common with the last of them.
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<SharingSequence> sequences;
  std::span<const std::int32_t> before;
  for (const std::size_t i : pass.requests) {
    const LikelihoodRequest& request = requests[i];
    const std::span<const std::int32_t> inputs = inputs_of(request, cut.context);
    const std::int64_t shared = std::ranges::mismatch(inputs, before).in1 - inputs.begin();
    std::vector<std::int32_t> own;
    if (shared > 0) own.assign(rows.back().begin(), rows.back().begin() + shared);
    for (std::int64_t j = shared; j < std::ssize(inputs); ++j) {
      const auto row = static_cast<std::int32_t>(tokens.size());
      own.push_back(row);
      tokens.push_back(inputs[static_cast<std::size_t>(j)]);
      starts.push_back(row - static_cast<std::int32_t>(j));
    }
    const std::int64_t predicted = std::min(request.predicted, std::ssize(inputs));
    predicting.insert(predicting.end(), own.end() - predicted, own.end());
    targets.insert(targets.end(), request.tokens.end() - predicted, request.tokens.end());
    predictions.push_back(predicted);
    sequences.push_back({.length = std::ssize(inputs), .shared = shared});
    rows.push_back(std::move(own));
    before = inputs;
  }
  place_of.resize(tokens.size());
  for (const SequenceGroup& one : groups_of(sequences, cut.limits.places)) {
    groups.push_back(
        {.sequences = std::ssize(one.sequences), .length = one.length, .known = one.known});
    for (const std::size_t s : one.sequences) {
      const std::vector<std::int32_t>& own = rows[s];
      const auto& [length, shared] = sequences[s];
      for (std::int64_t j = shared; j < length; ++j)
        place_of[static_cast<std::size_t>(own[static_cast<std::size_t>(j)])] =
            static_cast<std::int32_t>(std::ssize(query_of) + j - one.known);
      // Behind its end any row does.
      const std::size_t first = row_of.size();
      row_of.insert(row_of.end(), own.begin(), own.end());
      row_of.resize(first + static_cast<std::size_t>(one.length), 0);
      query_of.insert(query_of.end(),
                      row_of.begin() + static_cast<std::ptrdiff_t>(first) + one.known,
                      row_of.end());
    }
  }
}

}  // namespace polymoe
