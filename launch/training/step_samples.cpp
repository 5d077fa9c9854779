// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_samples.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/data/read_ahead.h"
#include "launch/data/token_rows.h"
#include "launch/step/training_model.h"
#include "launch/training/run_checkpoints.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

ReadAhead::Settings StepSamples::own(const RunPosition& position) const {
  const TrainConfig& train = config_.train;
  ReadAhead::Settings settings{
      .first = position.next_sample,
      .per_step = train.global_batch,
      .last = position.next_sample + (train.steps - position.step) * train.global_batch,
      .samples = {}};
  for (std::int64_t pass = 0; pass < model_.shares().passes; ++pass) {
    const SequenceRange share = model_.shares().of(pass, mesh_.world().rank());
    for (std::int64_t i = 0; i < share.count; ++i) settings.samples.push_back(share.first + i);
  }
  return settings;
}

void StepSamples::next(const RunPosition& position) {
  if (!reader_) reader_ = std::make_unique<ReadAhead>(data_, own(position));
  now_ = reader_->next();
}

std::optional<TrainingModel::CountedRows> StepSamples::count(Stream& stream) {
  if (!data_.masked()) return std::nullopt;
  // The mean is over the tokens that count on all ranks.
  std::array<std::int64_t, 2> rows{now_.predicted, now_.padding};
  mesh_.world().all_reduce(Tensor(rows.data(), {rows.size()}, DType::i64, Device::cpu()),
                           Reduction::sum, stream);
  padding_ = rows[1];
  return TrainingModel::CountedRows{.predicted = std::max<std::int64_t>(rows[0], 1),
                                    .padding = padding_};
}

void StepSamples::fill(std::int64_t pass, const TokenRows& to) {
  const auto rows_of = [&](std::int64_t one) {
    return model_.shares().of(one, mesh_.world().rank()).count * config_.model.context;
  };
  std::int64_t first = 0;
  for (std::int64_t before = 0; before < pass; ++before) first += rows_of(before);
  const std::int64_t count = rows_of(pass);
  const TokenRows from = now_.from(first);
  std::copy_n(from.tokens, count, to.tokens);
  std::copy_n(from.targets, count, to.targets);
  if (to.document_starts != nullptr) std::copy_n(from.document_starts, count, to.document_starts);
}

}  // namespace polymoe
