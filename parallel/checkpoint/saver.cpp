// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/saver.h"

#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/communication/communicator.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::size_t alignment = 64;

/// The lower bits of split values lie right behind the upper ones.
std::size_t bytes_of(const TensorPiece& piece) {
  const std::size_t low = piece.low.defined() ? piece.low.bytes() : 0;
  return round_up(piece.data.bytes() + low, alignment);
}

}  // namespace

std::size_t CheckpointSaver::staging_bytes(const std::vector<TensorPiece>& pieces) {
  std::size_t bytes = 0;
  for (const TensorPiece& piece : pieces) bytes += bytes_of(piece);
  return bytes;
}

CheckpointSaver::CheckpointSaver(Options options, std::unique_ptr<Communicator> ranks)
    : options_(std::move(options)),
      ranks_(std::move(ranks)),
      staging_(options_.staging_bytes, Device::cpu()) {
  // The system hands out pages at the first touch, which would be in a step.
  if (staging_.bytes() > 0) std::memset(staging_.data(), 0, staging_.bytes());
}

CheckpointSaver::~CheckpointSaver() {
  ranks_->interrupt();
  if (thread_.joinable()) thread_.join();
}

std::vector<TensorPiece> CheckpointSaver::stage(const std::vector<TensorPiece>& pieces,
                                                Stream& stream) {
  std::vector<TensorPiece> staged = pieces;
  std::size_t offset = 0;
  for (TensorPiece& piece : staged) {
    std::size_t at = offset;
    offset += bytes_of(piece);
    for (Tensor* tensor : {&piece.data, &piece.low}) {
      if (!tensor->defined()) continue;
      const Tensor copied = staging_.tensor(tensor->shape(), tensor->dtype(), at);
      copy(*tensor, copied, stream);
      *tensor = copied;
      at += copied.bytes();
    }
  }
  stream.synchronize();
  return staged;
}

void CheckpointSaver::run(const CheckpointInfo& info, const std::vector<TensorPiece>& pieces,
                          const SaveOptions& options, std::int64_t beside) {
  try {
    save_checkpoint(options_.root, info, pieces, *ranks_, options);
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    committed_ = info.step;
    prune_checkpoints(options_.root, options_.keep, *ranks_, options_.observer, beside);
  } catch (...) {
    failure_ = std::current_exception();
    failed_ = true;
  }
}

void CheckpointSaver::start(const CheckpointInfo& info, const std::vector<TensorPiece>& pieces,
                            Stream& stream, std::int64_t beside) {
  wait();
  begin_ = std::chrono::steady_clock::now();
  if (options_.staging_bytes == 0) {
    return run(info, pieces, {.stream = &stream, .observer = options_.observer}, beside);
  }
  if (staging_bytes(pieces) > options_.staging_bytes) {
    throw InvalidArgument("a checkpoint of " + std::to_string(staging_bytes(pieces)) +
                          " bytes on this rank; its staging memory has " +
                          std::to_string(options_.staging_bytes));
  }
  // A rank that cannot take part says so within the save: its peers are there already.
  std::vector<TensorPiece> staged;
  SaveOptions options{.stream = nullptr, .observer = options_.observer};
  try {
    tell(options_.observer, SavePoint::staging);
    staged = stage(pieces, stream);
  } catch (const std::exception& error) {
    options.refusal = std::string("cannot copy to host memory: ") + error.what();
  }
  thread_ = std::thread([this, info, staged = std::move(staged), options = std::move(options),
                         beside] { run(info, staged, options, beside); });
}

void CheckpointSaver::wait() {
  if (thread_.joinable()) thread_.join();
  failed_ = false;
  if (auto failure = std::exchange(failure_, nullptr)) std::rethrow_exception(failure);
}

CheckpointSaver::Committed CheckpointSaver::last() const {
  Committed last{.path = options_.root / checkpoint_name(committed_), .seconds = seconds_};
  std::error_code error;
  for (std::filesystem::directory_iterator entry(last.path, error), end; !error && entry != end;
       entry.increment(error)) {
    const auto bytes = entry->file_size(error);
    if (!error) last.bytes += static_cast<std::int64_t>(bytes);
  }
  return last;
}

void CheckpointSaver::shutdown() {
  wait();
  ranks_->shutdown();
}

}  // namespace polymoe
