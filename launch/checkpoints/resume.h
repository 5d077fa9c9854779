// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/communication/communicator.h"
#include "runtime/files/json.h"

namespace polymoe {

/// Where a run starts.
struct StartPoint {
  std::optional<CheckpointReader> checkpoint;  // nothing = from the beginning
  std::vector<std::string> notes;              // what the log says of the choice
};

/// Follows checkpoint.resume for the run directory `run`:
///   auto  the newest committed and valid checkpoint of the run, with a note for each newer one
///   that
///         is passed over; from the beginning if it has none
///   none  from the beginning
///   PATH  that checkpoint, or the newest valid one of that run directory
/// Throws InputFileError when there are checkpoints and none of them is valid, or PATH is not one;
/// InvalidArgument when the run holds checkpoints that the choice would leave behind it. The
/// checkpoint's hashes are checked. Collective over ranks that see one file system; all throw what
/// one throws.
StartPoint choose_start(const CheckpointConfig& config, const std::filesystem::path& run,
                        Communicator& ranks);

/// The checkpoint that a path given by the user means: itself if it is one, else the newest valid
/// one of the run directory. Throws InputFileError.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path,
                                         std::vector<std::string>& notes);

/// Does so by ranks that see one file system: opened, all hashes checked. Collective; all throw
/// what one throws.
CheckpointReader open_checkpoint(const std::filesystem::path& path, std::vector<std::string>& notes,
                                 Communicator& ranks);

/// Throws InvalidArgument naming the differing fields when the checkpoint is of another model than
/// `config` describes.
void check_same_model(const Config& config, const CheckpointInfo& info,
                      const std::filesystem::path& checkpoint);

/// "key = here (checkpoint: there)" for each setting outside [run], [checkpoint] and [parallel]
/// that differs from what the checkpoint was trained with.
std::vector<std::string> changed_settings(const Config& config, const CheckpointInfo& info,
                                          const std::filesystem::path& checkpoint);

/// What the trainer resumes by, beside step and tokens: the `state` of a checkpoint.
struct TrainingState {
  std::int64_t next_sample = 0;  // data position: samples drawn so far
  bool moments = true;           // the checkpoint holds the optimizer's moments
  Json data = {};                // DataState; null before version 1 of it
  Json guard = {};               // StepGuard; null where nothing is known of earlier steps
  std::int64_t sound = -1;       // step of the run's newest checkpoint that is known to be sound

  std::string to_text() const;
  /// Throws InputFileError naming `origin`.
  static TrainingState from_text(const std::string& text, const std::string& origin);
};

}  // namespace polymoe
