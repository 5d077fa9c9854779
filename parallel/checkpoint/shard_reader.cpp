// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/shard_reader.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/stored_values.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/files/hdf5_file.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// A block stays in cache between the system's copy, the hash and the copy to a tensor.
constexpr std::int64_t block_bytes = std::int64_t{1} << 20;

/// Byte `element` of the transfer's values begins at in the file.
std::int64_t position_of(const ShardTransfer& transfer, std::int64_t element) {
  return transfer.from->offset +
         (transfer.begin + element) * static_cast<std::int64_t>(size_of(transfer.stored));
}

std::int64_t end_of(const ShardTransfer& transfer) {
  return position_of(transfer, transfer.to.elements());
}

/// No element of it lies across two blocks.
bool is_aligned(const ShardTransfer& transfer) {
  return position_of(transfer, 0) % static_cast<std::int64_t>(size_of(transfer.stored)) == 0;
}

/// The elements of a transfer that lie in the block [position, position + bytes).
void take_from_block(const ShardTransfer& transfer, std::byte* block, std::int64_t position,
                     std::int64_t bytes, HostPassage& passage) {
  const auto size = static_cast<std::int64_t>(size_of(transfer.stored));
  const std::int64_t first = position_of(transfer, 0);
  const std::int64_t begin = std::max(first, position);
  const std::int64_t end = std::min(end_of(transfer), position + bytes);
  if (begin >= end) return;
  const Tensor values(block + (begin - position), {(end - begin) / size}, transfer.stored,
                      Device::cpu());
  passage.put(values, transfer.to.rows((begin - first) / size, (end - first) / size));
}

void read_from(const InputFile& file, const std::vector<ShardTransfer>& transfers,
               HostPassage& passage) {
  for (const ShardTransfer& transfer : transfers) {
    passage.read(transfer.to, transfer.stored, [&](std::int64_t begin, const Tensor& part) {
      file.read(position_of(transfer, begin), part.raw(), part.bytes());
    });
  }
}

}  // namespace

void check_hash(const std::filesystem::path& path, const CheckpointManifest::File& expected,
                const std::string& found) {
  if (found == expected.xxh3) return;
  throw InputFileError(path.string(), "is damaged: its content has hash " + found +
                                          ", the manifest says " + expected.xxh3);
}

void read_shard_and_hash(const std::filesystem::path& path,
                         const CheckpointManifest::File& expected,
                         const std::vector<ShardTransfer>& transfers, HostPassage& passage) {
  std::vector<ShardTransfer> waiting, apart;
  for (const ShardTransfer& transfer : transfers)
    (is_aligned(transfer) ? waiting : apart).push_back(transfer);
  std::sort(waiting.begin(), waiting.end(), [](const ShardTransfer& a, const ShardTransfer& b) {
    return position_of(a, 0) < position_of(b, 0);
  });
  const InputFile file(path);
  const Buffer memory(static_cast<std::size_t>(block_bytes), Device::cpu());
  auto* block = static_cast<std::byte*>(memory.data());
  Xxh3 hash;
  std::vector<ShardTransfer> active;  // that reach into the block
  auto next = waiting.begin();
  for (std::int64_t position = 0; position < expected.bytes; position += block_bytes) {
    const std::int64_t bytes = std::min(block_bytes, expected.bytes - position);
    file.read(position, block, static_cast<std::size_t>(bytes));
    hash.update(block, static_cast<std::size_t>(bytes));
    for (; next != waiting.end() && position_of(*next, 0) < position + bytes; ++next)
      active.push_back(*next);
    for (const ShardTransfer& transfer : active)
      take_from_block(transfer, block, position, bytes, passage);
    std::erase_if(active, [&](const ShardTransfer& transfer) {
      return end_of(transfer) <= position + bytes;
    });
  }
  check_hash(path, expected, hash.digest());
  read_from(file, apart, passage);
}

void read_shard(const std::filesystem::path& path, const std::vector<ShardTransfer>& transfers,
                HostPassage& passage) {
  read_from(InputFile(path), transfers, passage);
}

void read_shard_by_hdf5(const std::filesystem::path& path,
                        const std::vector<ShardTransfer>& transfers, HostPassage& passage) {
  const Hdf5Reader file(path);
  for (const ShardTransfer& transfer : transfers) {
    passage.read(transfer.to, transfer.stored, [&](std::int64_t begin, const Tensor& part) {
      file.read(transfer.from->dataset, transfer.begin + begin, part);
    });
  }
}

}  // namespace polymoe
