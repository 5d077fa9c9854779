// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/decoding.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/parallel_for.h"
#include "launch/inference/answering_model.h"
#include "launch/inference/sampler.h"
#include "launch/step/memory_plan.h"
#include "launch/step/pass_limits.h"
#include "moe/decoding_cache.h"
#include "moe/language_model.h"
#include "parallel/communication/agreement.h"
#include "runtime/arena.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

/// Memory of a rank where it computes: what is free of a GPU's, or its share of the host's.
std::size_t memory_bytes(const AnsweringModel& answering) {
  const Device device = answering.context.stream.device();
  if (device.type == DeviceType::cuda) return cuda::memory_info(device.index).free;
  return static_cast<std::size_t>(usable_memory_bytes() / answering.mesh.world().size());
}

/// The tokens that a sequence has at its end, as many as the model keeps.
std::int64_t most_tokens(const DecodingRequest& request, std::int64_t context) {
  if (request.beyond_context) return context;
  return std::min(std::ssize(request.prompt) + request.tokens, context);
}

void check(const std::vector<DecodingRequest>& requests, std::int64_t context) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const DecodingRequest& request = requests[i];
    const std::int64_t prompt = std::ssize(request.prompt);
    const auto fail = [&](const std::string& cause) {
      throw InvalidArgument(fmt::format("request {} of {}: {}", i, requests.size(), cause));
    };
    if (prompt < 1) fail("a prompt without tokens, must have at least 1");
    if (request.tokens < 1) fail(fmt::format("{} tokens, must be at least 1", request.tokens));
    const std::int64_t new_ones = request.beyond_context ? 1 : request.tokens;
    if (new_ones - 1 > context - prompt)  // the last one is not read again
      fail(fmt::format(
          "a prompt of {} tokens and {} new ones but the last are more than the context of "
          "{}",
          prompt, new_ones, context));
  }
}

/// Where a sequence is continued.
struct Slot {
  bool taken = false;
  std::size_t request = 0;
  std::vector<std::int32_t> next = {};  // what the model is to be given
  std::vector<std::int32_t> seen = {};  // all of the sequence, where it may leave the context
  std::int64_t length = 0;              // of what the model was given
  std::int64_t drawn = 0;
  std::optional<Sampler> sampler = {};  // on the slot's rank
};

/// All slots of all ranks, and the requests that go through them. Every rank keeps the same; slot s
/// is computed by rank s % ranks.
class Decoding {
 public:
  Decoding(const AnsweringModel& answering, const std::vector<DecodingRequest>& requests,
           std::int64_t vocab)
      : answering_(answering),
        requests_(requests),
        context_(answering.model.config().context),
        vocab_(static_cast<std::size_t>(vocab)),
        drops_(drops_tokens(answering.model.config())),
        world_(answering.mesh.world()),
        ranks_(static_cast<std::size_t>(world_.size())) {
    for (const DecodingRequest& request : requests)
      capacity_ = std::max(capacity_, most_tokens(request, context_));
    const std::int64_t share = divide_up(std::ssize(requests), std::int64_t{world_.size()});
    per_rank_ = static_cast<std::size_t>(std::min(sequences_at_once(answering, capacity_), share));
    slots_.resize(per_rank_ * ranks_);
    caches_.resize(per_rank_);
  }

  std::optional<DecodingWork> run(const std::function<bool(std::size_t, std::int32_t)>& take) {
    const auto begin = std::chrono::steady_clock::now();
    DecodingWork work;
    while (fill()) {
      if (answering_.leave && answering_.leave()) return std::nullopt;
      std::vector<std::vector<std::size_t>> passes;
      for (std::size_t rank = 0; rank < ranks_; ++rank) passes.push_back(pass_of(rank));
      const std::vector<std::int32_t> ids = draw(passes);
      const bool first = work.tokens == 0;
      for (const std::vector<std::size_t>& pass : passes)
        for (const std::size_t slot : pass) {
          work.tokens += std::ssize(slots_[slot].next);
          advance(slots_[slot], ids[place_of(slot)], take);
        }
      if (!first) continue;
      work.first_tokens = work.tokens;
      work.first_seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    return work;
  }

 private:
  static constexpr std::int32_t nothing = -1, failed = -2;

  /// Where a slot's token is in the ranks' equal slices.
  std::size_t place_of(std::size_t slot) const { return slot % ranks_ * per_rank_ + slot / ranks_; }

  /// Requests that wait take the free slots. Whether there is anything to do.
  bool fill() {
    bool any = false;
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      if (!slots_[s].taken && next_ < requests_.size()) begin(slots_[s], s, next_++);
      any = any || slots_[s].taken;
    }
    return any;
  }

  bool is_mine(std::size_t slot) const {
    return slot % ranks_ == static_cast<std::size_t>(world_.rank());
  }

  void begin(Slot& slot, std::size_t number, std::size_t request) {
    const DecodingRequest& asked = requests_[request];
    slot = {.taken = true, .request = request, .next = asked.prompt};
    if (asked.beyond_context) slot.seen = asked.prompt;
    if (is_mine(number)) slot.sampler.emplace(asked.sampling, asked.text);
  }

  /// The slots of a rank that take part in its next pass: all with a single token, and as many of
  /// the longer beginnings as a pass holds. Where tokens are dropped by sequence one of those goes
  /// alone.
  std::vector<std::size_t> pass_of(std::size_t rank) const {
    std::vector<std::size_t> pass, beginnings;
    std::int64_t tokens = 0;
    for (std::size_t s = rank; s < slots_.size(); s += ranks_) {
      if (!slots_[s].taken) continue;
      const std::int64_t count = std::ssize(slots_[s].next);
      if (count == 1) {
        pass.push_back(s);
      } else if (beginnings.empty() || (!drops_ && tokens + count <= answering_.limits.tokens)) {
        beginnings.push_back(s);
        tokens += count;
      }
    }
    if (drops_ && !beginnings.empty()) return beginnings;
    pass.insert(pass.end(), beginnings.begin(), beginnings.end());
    return pass;
  }

  /// Runs this rank's pass; the tokens that all ranks drew.
  std::vector<std::int32_t> draw(const std::vector<std::vector<std::size_t>>& passes) {
    const std::vector<std::size_t>& mine = passes[static_cast<std::size_t>(world_.rank())];
    std::vector<std::int32_t> ids(slots_.size(), nothing);
    const std::vector<float> logits = logits_of(mine);
    const auto width = static_cast<std::size_t>(answering_.model.config().vocab);
    const std::exception_ptr failure = failure_of([&] {
      cpu::parallel_for(std::ssize(mine), [&](std::int64_t i) {
        const auto row = static_cast<std::size_t>(i);
        // A vocabulary that was padded has ids that stand for nothing.
        const auto choices = std::span(logits).subspan(row * width, vocab_);
        Slot& slot = slots_[mine[row]];
        ids[place_of(mine[row])] = static_cast<std::int32_t>(slot.sampler->draw(choices));
      });
    });
    if (failure)
      for (const std::size_t slot : mine) ids[place_of(slot)] = failed;
    world_.all_gather(Tensor(ids.data(), {std::ssize(ids)}, DType::i32, Device::cpu()),
                      answering_.context.stream);
    if (std::ranges::find(ids, failed) != ids.end()) throw_alike(failure, world_);
    return ids;
  }

  /// [slots in the pass, vocab of the model]
  std::vector<float> logits_of(const std::vector<std::size_t>& pass) {
    ExecutionContext& context = answering_.context;
    std::vector<Continuation> sequences;
    std::vector<std::int32_t> next;
    for (const std::size_t s : pass) {
      const std::vector<std::int32_t>& own = slots_[s].next;
      DecodingCache& cache = cache_of(s);
      if (slots_[s].length == 0) cache.clear();
      sequences.push_back({.cache = &cache, .tokens = std::ssize(own)});
      next.insert(next.end(), own.begin(), own.end());
    }
    const Arena::Scope scope(context.arena);
    const Tensor tokens = context.arena.allocate({std::ssize(next)}, DType::i32);
    set_values(std::span<const std::int32_t>(next), tokens, context.stream);
    return host_values<float>(answering_.model.next_token_logits(tokens, sequences, context),
                              context.stream);
  }

  /// Made when it is first needed: few requests take the memory of few.
  DecodingCache& cache_of(std::size_t slot) {
    std::unique_ptr<DecodingCache>& cache = caches_[slot / ranks_];
    if (!cache)
      cache = std::make_unique<DecodingCache>(answering_.model.config(), capacity_,
                                              answering_.dtype, answering_.context.stream.device());
    return *cache;
  }

  /// What becomes of a sequence whose next token is `id`.
  void advance(Slot& slot, std::int32_t id,
               const std::function<bool(std::size_t, std::int32_t)>& take) {
    const DecodingRequest& request = requests_[slot.request];
    slot.length += std::ssize(slot.next);
    ++slot.drawn;
    if (!take(slot.request, id) || slot.drawn == request.tokens) {
      slot = {};
      return;
    }
    slot.next.assign(1, id);
    if (request.beyond_context) slot.seen.push_back(id);
    if (slot.length < context_) return;
    // Positions cannot be moved in the cache: the last half is read anew.
    const auto half = std::max<std::int64_t>(context_ / 2, 1);
    slot.next.assign(slot.seen.end() - half, slot.seen.end());
    slot.length = 0;
  }

  const AnsweringModel& answering_;
  const std::vector<DecodingRequest>& requests_;
  const std::int64_t context_;
  const std::size_t vocab_;
  const bool drops_;
  Communicator& world_;
  const std::size_t ranks_;
  std::int64_t capacity_ = 1;
  std::size_t per_rank_ = 0;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<DecodingCache>> caches_;  // of this rank's slots
  std::size_t next_ = 0;                                // request that waits
};

}  // namespace

std::int64_t sequences_at_once(const AnsweringModel& answering, std::int64_t capacity) {
  const std::size_t bytes =
      DecodingCache::bytes(answering.model.config(), capacity, answering.dtype);
  const auto room = static_cast<std::int64_t>(memory_bytes(answering) / bytes);
  const std::int64_t least = least_of_ranks(room, answering.mesh.world());
  if (answering.batch == 0) return std::clamp<std::int64_t>(least / 4, 1, usual_batch);
  if (answering.batch > least)
    throw InvalidArgument(fmt::format(
        "a batch of {}: the keys and values of a sequence of {} tokens take {:.1f} MiB, a rank has "
        "room for {}",
        answering.batch, capacity, static_cast<double>(bytes) / (1 << 20), least));
  return answering.batch;
}

std::optional<DecodingWork> continue_all(
    const AnsweringModel& answering, const std::vector<DecodingRequest>& requests,
    std::int64_t vocab, const std::function<bool(std::size_t request, std::int32_t id)>& take) {
  check(requests, answering.model.config().context);
  if (requests.empty()) return DecodingWork{};
  return Decoding(answering, requests, vocab).run(take);
}

}  // namespace polymoe
