// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/checkpoint_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "runtime/buffer.h"
#include "runtime/error.h"

namespace polymoe {

std::vector<std::string> gather_text(const std::string& text, Communicator& world) {
  Stream stream(Device::cpu());
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::int64_t> send_rows(ranks, 0), receive_rows(ranks, 0);
  send_rows[0] = static_cast<std::int64_t>(text.size());
  world.all_to_all_counts(send_rows, receive_rows);
  const std::int64_t total =
      std::accumulate(receive_rows.begin(), receive_rows.end(), std::int64_t{0});
  const OwnedTensor send({send_rows[0], 1}, DType::u8, Device::cpu());
  const OwnedTensor receive({total, 1}, DType::u8, Device::cpu());
  if (!text.empty()) std::memcpy(send->raw(), text.data(), text.size());
  world.all_to_all(*send, send_rows, *receive, receive_rows, stream);
  std::vector<std::string> texts(ranks);
  const char* next = static_cast<const char*>(receive->raw());
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto size = static_cast<std::size_t>(receive_rows[rank]);
    if (size > 0) texts[rank].assign(next, size);
    next += size;
  }
  return texts;
}

std::string broadcast_text(const std::string& text, int root, Communicator& world) {
  Stream stream(Device::cpu());
  const OwnedTensor size({1}, DType::i64, Device::cpu());
  *size->data<std::int64_t>() = static_cast<std::int64_t>(text.size());
  world.broadcast(*size, root, stream);
  const std::int64_t count = *size->data<std::int64_t>();
  if (count == 0) return "";
  const OwnedTensor bytes({count}, DType::u8, Device::cpu());
  if (world.rank() == root) std::memcpy(bytes->raw(), text.data(), text.size());
  world.broadcast(*bytes, root, stream);
  return {static_cast<const char*>(bytes->raw()), static_cast<std::size_t>(count)};
}

void read_alike(const std::string& path, const std::function<std::int64_t()>& body,
                Communicator& world) {
  std::int64_t number = 0;
  std::string at, cause;
  try {
    number = body();
  } catch (const InputFileError& error) {
    at = error.path();
    cause = std::string(error.what()).substr(at.size() + 2);  // "PATH: CAUSE"
  } catch (const std::exception& error) {
    at = path;
    cause = error.what();
  }
  // The lowest rank that failed, and the bounds of the numbers.
  const std::int64_t failed = at.empty() ? 0 : world.size() - world.rank();
  std::int64_t most[] = {failed, number, -number};
  Stream stream(Device::cpu());
  world.all_reduce(Tensor(most, {3}, DType::i64, Device::cpu()), Reduction::max, stream);
  if (most[0] > 0) {
    const auto rank = static_cast<int>(world.size() - most[0]);
    at = broadcast_text(at, rank, world);
    cause = broadcast_text(cause, rank, world);
    throw InputFileError(at, cause);
  }
  if (most[1] != -most[2]) {
    throw InputFileError(path, "is not the same on all ranks; they must see one file system");
  }
}

}  // namespace polymoe
