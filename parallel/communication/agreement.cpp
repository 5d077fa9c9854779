// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/agreement.h"

#include <cstdint>
#include <cstring>
#include <exception>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

/// What of an error travels to other ranks.
struct Description {
  ErrorKind kind = ErrorKind::unforeseen;
  std::string path;
  std::string cause;
};

Description describe(const std::exception_ptr& failure) {
  if (!failure) return {};
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return {.kind = error.kind(), .path = error.path(), .cause = error.cause()};
  } catch (const std::exception& error) {
    return {.kind = ErrorKind::unforeseen, .path = "", .cause = error.what()};
  } catch (...) {
    return {.kind = ErrorKind::unforeseen, .path = "", .cause = "unknown error"};
  }
}

}  // namespace

std::vector<std::string> gather_text(const std::string& text, Communicator& ranks) {
  Stream stream(Device::cpu());
  const auto size = static_cast<std::size_t>(ranks.size());
  std::vector<std::int64_t> send_rows(size, 0), receive_rows(size, 0);
  send_rows[0] = static_cast<std::int64_t>(text.size());
  ranks.all_to_all_counts(send_rows, receive_rows);
  const std::int64_t total =
      std::accumulate(receive_rows.begin(), receive_rows.end(), std::int64_t{0});
  const OwnedTensor send({send_rows[0], 1}, DType::u8, Device::cpu());
  const OwnedTensor receive({total, 1}, DType::u8, Device::cpu());
  if (!text.empty()) std::memcpy(send->raw(), text.data(), text.size());
  ranks.all_to_all(*send, send_rows, *receive, receive_rows, stream);
  std::vector<std::string> texts(size);
  const char* next = static_cast<const char*>(receive->raw());
  for (std::size_t rank = 0; rank < size; ++rank) {
    const auto length = static_cast<std::size_t>(receive_rows[rank]);
    if (length > 0) texts[rank].assign(next, length);
    next += length;
  }
  return texts;
}

std::string broadcast_text(const std::string& text, int root, Communicator& ranks) {
  return broadcast_text(std::optional(text), root, ranks).value();
}

std::optional<std::string> broadcast_text(const std::optional<std::string>& text, int root,
                                          Communicator& ranks) {
  Stream stream(Device::cpu());
  std::int64_t length = text ? static_cast<std::int64_t>(text->size()) : -1;
  ranks.broadcast(Tensor(&length, {1}, DType::i64, Device::cpu()), root, stream);
  if (length < 0) return std::nullopt;
  if (length == 0) return "";
  const OwnedTensor bytes({length}, DType::u8, Device::cpu());
  if (ranks.rank() == root) std::memcpy(bytes->raw(), text->data(), text->size());
  ranks.broadcast(*bytes, root, stream);
  return std::string(static_cast<const char*>(bytes->raw()), static_cast<std::size_t>(length));
}

std::int64_t least_of_ranks(std::int64_t number, Communicator& ranks) {
  std::int64_t complement = ~number;  // turns the order around
  Stream stream(Device::cpu());
  ranks.all_reduce(Tensor(&complement, {1}, DType::i64, Device::cpu()), Reduction::max, stream);
  return ~complement;
}

bool same_on_all_ranks(std::int64_t number, Communicator& ranks) {
  std::int64_t bounds[] = {number, ~number};  // the complement turns the order around
  Stream stream(Device::cpu());
  ranks.all_reduce(Tensor(bounds, {2}, DType::i64, Device::cpu()), Reduction::max, stream);
  return bounds[0] == ~bounds[1];
}

void throw_alike(const std::exception_ptr& failure, Communicator& ranks) {
  // The lowest rank that failed has the largest number; 0 = none did.
  std::int64_t ahead = failure ? ranks.size() - ranks.rank() : 0;
  Stream stream(Device::cpu());
  ranks.all_reduce(Tensor(&ahead, {1}, DType::i64, Device::cpu()), Reduction::max, stream);
  if (ahead == 0) return;
  const int root = ranks.size() - static_cast<int>(ahead);
  const Description own = describe(failure);
  std::int64_t kind = static_cast<std::int64_t>(own.kind);
  ranks.broadcast(Tensor(&kind, {1}, DType::i64, Device::cpu()), root, stream);
  const std::string path = broadcast_text(own.path, root, ranks);
  const std::string cause = broadcast_text(own.cause, root, ranks);
  if (ranks.rank() == root) std::rethrow_exception(failure);
  throw_error(static_cast<ErrorKind>(kind), path, cause);
}

}  // namespace polymoe
