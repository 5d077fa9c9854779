// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/buffer.h"

namespace polymoe {

/// Saves checkpoints of a run while the run goes on: the caller waits only until its pieces are
/// copied to staging memory; a thread writes, syncs, commits, and removes old checkpoints. One save
/// is under way at a time. One thread of each rank uses it.
class CheckpointSaver {
 public:
  struct Options {
    std::filesystem::path root;
    std::int64_t keep = 0;             // newest checkpoints that stay; 0 = all
    std::size_t staging_bytes = 0;     // host memory; 0 = none, start() saves before it returns
    SaveObserver* observer = nullptr;  // of this rank
  };

  /// What staging_bytes must be for pieces like these: their bytes as they are held, each rounded
  /// up to 64. bf16 becomes f32 only when it is written.
  static std::size_t staging_bytes(const std::vector<TensorPiece>& pieces);

  /// `ranks` is used by the saves alone: a communicator that is the caller's as well would mix
  /// their messages with others. Allocates the staging memory; throws DeviceError.
  CheckpointSaver(Options options, std::unique_ptr<Communicator> ranks);
  /// Breaks off a save under way, where it waits for peers; it never waits for them itself.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Starts save_checkpoint() and the removal of old ones. On return the pieces may change again.
  /// Pieces on a GPU are copied in order on `stream`, which is of that GPU, with one wait for all.
  /// Collective. Waits for the save before, and throws what wait() throws; what happens from then
  /// on is for wait() to say. Throws InvalidArgument when staging memory exists and is too small.
  /// The checkpoint of step `beside` stays, whatever Options::keep says.
  void start(const CheckpointInfo& info, const std::vector<TensorPiece>& pieces, Stream& stream,
             std::int64_t beside = -1);
  /// Whether the save has ended with an error on this rank; on the others it has, or will. Never
  /// waits.
  bool failed() const { return failed_; }
  /// Returns when the save has ended. Collective. Throws its error, once: OutputFileError, the same
  /// one on every rank, or CommunicationError.
  void wait();
  /// Step of the newest checkpoint that it committed; -1 before the first.
  std::int64_t committed() const { return committed_; }
  /// What committed() is: on the rank whose files are counted, those of the whole checkpoint.
  struct Committed {
    std::filesystem::path path;
    std::int64_t bytes = 0;  // 0 where the directory cannot be listed, as on another node
    double seconds = 0.0;    // from start() on
  };
  /// With no save between committed() and this; see start().
  Committed last() const;
  /// The orderly, collective end, with no save under way.
  void shutdown();

 private:
  void run(const CheckpointInfo& info, const std::vector<TensorPiece>& pieces,
           const SaveOptions& options, std::int64_t beside);
  std::vector<TensorPiece> stage(const std::vector<TensorPiece>& pieces, Stream& stream);

  Options options_;
  std::unique_ptr<Communicator> ranks_;
  Buffer staging_;
  std::thread thread_;
  std::exception_ptr failure_;  // written by the thread before it ends
  std::atomic<bool> failed_ = false;
  std::atomic<std::int64_t> committed_ = -1;
  std::chrono::steady_clock::time_point begin_;  // of the newest save
  std::atomic<double> seconds_ = 0.0;            // that the newest committed one took
};

}  // namespace polymoe
