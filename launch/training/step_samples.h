// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "launch/config/config.h"
#include "launch/data/read_ahead.h"
#include "launch/data/token_data.h"
#include "launch/data/token_rows.h"
#include "launch/step/training_model.h"
#include "launch/training/run_checkpoints.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/stream.h"

namespace polymoe {

/// This rank's samples of one step after the other, read ahead, and given out pass by pass.
class StepSamples {
 public:
  /// All are used by what is called later, and outlive it; `data` must not begin anew from the
  /// first next() on.
  StepSamples(const Config& config, const ProcessMesh& mesh, const TokenData& data,
              const TrainingModel& model)
      : config_(config), mesh_(mesh), data_(data), model_(model) {}

  /// The samples of the step behind `position`. Steps follow one another from the first call's on.
  /// Throws what reading them threw.
  void next(const RunPosition& position);
  /// Rows of the global batch of this step, where some tokens are no targets. Collective then.
  std::optional<TrainingModel::CountedRows> count(Stream& stream);
  /// Rows of the global batch that hold no token, as far as count() was asked; else 0.
  std::int64_t padding() const { return padding_; }
  /// This rank's tokens of a pass.
  void fill(std::int64_t pass, const TokenRows& to);

 private:
  ReadAhead::Settings own(const RunPosition& position) const;

  const Config& config_;
  const ProcessMesh& mesh_;
  const TokenData& data_;
  const TrainingModel& model_;
  ReadAhead::Step now_;
  std::int64_t padding_ = 0;
  std::unique_ptr<ReadAhead> reader_;  // from the first step on
};

}  // namespace polymoe
