// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/staged_communicator.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/device_communicator.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/cuda/gpu.h"
#include "runtime/device.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::size_t smallest_block = std::size_t{64} << 10;

/// Host memory for one operation, page-locked where the device is a GPU.
class Block {
 public:
  Block() = default;
  Block(std::size_t bytes, Device device) : bytes_(bytes) {
    if (device.type == DeviceType::cuda) {
      pinned_.reset(cuda::allocate_pinned(bytes));
    } else {
      pageable_ = Buffer(bytes, Device::cpu());
    }
  }

  std::size_t bytes() const { return bytes_; }
  std::byte* data() const {
    return static_cast<std::byte*>(pinned_ != nullptr ? pinned_.get() : pageable_.data());
  }

 private:
  struct Release {
    void operator()(void* memory) const noexcept { cuda::release_pinned(memory); }
  };
  std::unique_ptr<void, Release> pinned_;
  Buffer pageable_;
  std::size_t bytes_ = 0;
};

/// Elements [rank * n, (rank + 1) * n) of the `ranks` equal slices, as a flat tensor.
Tensor slice_of(const Tensor& values, int rank, int ranks) {
  const std::int64_t each = values.elements() / ranks;
  return values.view({values.elements()}).rows(rank * each, (rank + 1) * each);
}

std::int64_t sum_of(std::span<const std::int64_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

}  // namespace

/// The blocks of one communicator and the stream of its copies. Operations share its ownership, for
/// one may outlive the communicator.
class StagedCommunicator::Staging {
 public:
  explicit Staging(Device device) : device_(device), copies_(device) {}

  Stream& copies() { return copies_; }
  std::uint64_t next_number() { return ++posted_; }

  /// The smallest free block of at least `bytes`; a new one replaces one that is too small.
  Block take(std::size_t bytes) {
    const auto by_size = [](const Block& a, const Block& b) { return a.bytes() < b.bytes(); };
    const auto fits = [&](const Block& block) { return block.bytes() >= bytes; };
    std::sort(free_.begin(), free_.end(), by_size);
    auto found = std::find_if(free_.begin(), free_.end(), fits);
    if (found == free_.end()) {
      if (!free_.empty()) free_.pop_back();
      return Block(std::bit_ceil(std::max(bytes, smallest_block)), device_);
    }
    Block block = std::move(*found);
    free_.erase(found);
    return block;
  }

  /// Operation `number` is done with its block. The host's operations end in the order they were
  /// posted, so blocks that earlier ones left behind are free as well.
  void give_back(std::uint64_t number, Block block) {
    free_.push_back(std::move(block));
    for (auto& [of, left] : left_behind_) {
      if (of < number) free_.push_back(std::move(left));
    }
    std::erase_if(left_behind_, [&](const auto& entry) { return entry.first < number; });
  }

  /// Operation `number` was given up or failed; the host's side may still use its block.
  void leave_behind(std::uint64_t number, Block block) {
    left_behind_.emplace_back(number, std::move(block));
  }

 private:
  Device device_;
  Stream copies_;
  std::uint64_t posted_ = 0;
  std::vector<Block> free_;
  std::vector<std::pair<std::uint64_t, Block>> left_behind_;
};

/// One operation between start_X and wait().
class StagedCommunicator::Operation final : public Pending::State {
 public:
  /// Waits for the work on `stream`, whose results are about to be sent.
  Operation(std::shared_ptr<Staging> staging, std::size_t bytes, Stream& stream)
      : staging_(std::move(staging)),
        number_(staging_->next_number()),
        block_(staging_->take(bytes)) {
    stream.synchronize();
  }
  ~Operation() override {
    if (!done_) staging_->leave_behind(number_, std::move(block_));
  }

  /// Host tensor like `like`, from byte `offset` of the block on.
  Tensor staged(const Tensor& like, std::size_t offset) const {
    return {block_.data() + offset, like.shape(), like.dtype(), Device::cpu()};
  }
  void send(const Tensor& from, const Tensor& to) {
    copy(from, to, staging_->copies());
    staging_->copies().synchronize();
  }
  /// What wait() copies to the device once `posted` is done.
  void expect(Pending posted, const Tensor& from, const Tensor& to) {
    posted_ = std::move(posted);
    from_ = from;
    to_ = to;
  }

  void wait(Stream&) override {
    Stream host(Device::cpu());
    posted_.wait(host);
    copy(from_, to_, staging_->copies());
    staging_->copies().synchronize();  // now it is there for any stream, and the block is free
    done_ = true;
    staging_->give_back(number_, std::move(block_));
  }

 private:
  std::shared_ptr<Staging> staging_;
  std::uint64_t number_;
  Block block_;
  Pending posted_;
  Tensor from_;
  Tensor to_;
  bool done_ = false;
};

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host, Device device,
                                       std::string group)
    : DeviceCommunicator(std::move(host), device, std::move(group)),
      staging_(std::make_shared<Staging>(device)) {}

StagedCommunicator::~StagedCommunicator() {
  release_host();  // before the blocks, which its thread may be using
}

Pending StagedCommunicator::post(const Collective& asked, Stream& stream) {
  if (asked.kind == Collective::Kind::all_to_all) return post_all_to_all(asked, stream);
  const Tensor& values = asked.values;
  auto operation = std::make_shared<Operation>(staging_, values.bytes(), stream);
  const Tensor staged = operation->staged(values, 0);
  const auto part = [&](const Tensor& all, bool slice) {
    return slice ? slice_of(all, rank(), size()) : all;
  };
  const bool gathers = asked.kind == Collective::Kind::all_gather;
  const bool scatters = asked.kind == Collective::Kind::reduce_scatter;
  if (asked.kind != Collective::Kind::broadcast || rank() == asked.root)
    operation->send(part(values, gathers), part(staged, gathers));
  Collective on_host = asked;
  on_host.blocking = false;
  on_host.values = staged;
  operation->expect(host().start(on_host, stream), part(staged, scatters), part(values, scatters));
  return Pending(std::move(operation));
}

Pending StagedCommunicator::post_all_to_all(const Collective& asked, Stream& stream) {
  const Tensor outgoing = asked.values.rows(0, sum_of(asked.send_rows));
  const Tensor incoming = asked.receive.rows(0, sum_of(asked.receive_rows));
  const std::size_t second = (outgoing.bytes() + 63) / 64 * 64;
  auto operation = std::make_shared<Operation>(staging_, second + incoming.bytes(), stream);
  const Tensor staged_outgoing = operation->staged(outgoing, 0);
  const Tensor staged_incoming = operation->staged(incoming, second);
  operation->send(outgoing, staged_outgoing);
  operation->expect(host().start_all_to_all(staged_outgoing, asked.send_rows, staged_incoming,
                                            asked.receive_rows, stream),
                    staged_incoming, incoming);
  return Pending(std::move(operation));
}

std::unique_ptr<Communicator> StagedCommunicator::split(int color) {
  return std::make_unique<StagedCommunicator>(host().split(color), device(),
                                              group() + "/" + std::to_string(color));
}

}  // namespace polymoe
