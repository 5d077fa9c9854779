// SPDX-License-Identifier: Apache-2.0
// Trains a small mixture-of-experts model on a sequence that it can learn, without files.
#include <cstdio>
#include <utility>

#include <polymoe/launch/config/config.h>
#include <polymoe/launch/step/training_model.h>
#include <polymoe/parallel/communication/local/local_communicator.h>
#include <polymoe/parallel/communication/process_mesh.h>
#include <polymoe/runtime/execution.h>

using namespace polymoe;

int main() {
  const Config config = parse_config(
      "[model]\nlayers = 2\nhidden = 32\nheads = 2\nvocab = 16\ncontext = 16\n"
      "[moe]\nexperts = 4\ntop_k = 2\n"
      "[train]\nsteps = 30\nglobal_batch = 4\n[optimizer]\nlr = 0.01\n",
      "example", {});
  const Device device = Device::cpu();
  const ProcessMesh mesh(std::move(make_local_communicators(1).front()), config.parallel.expert);
  TrainingModel training(config, mesh, device);

  Execution execution({.device = device, .capacity = std::size_t{1} << 30});
  ExecutionContext& context = execution.context();
  training.optimizer().initialize(config.train.seed, context.stream);

  // Each token is the one before it plus 3.
  const auto fill = [&](std::int64_t, const TokenRows& rows) {
    for (std::int64_t i = 0; i < config.train.global_batch * config.model.context; ++i) {
      rows.tokens[i] = static_cast<std::int32_t>(3 * i % config.model.vocab);
      rows.targets[i] = static_cast<std::int32_t>((3 * i + 3) % config.model.vocab);
    }
  };
  for (std::int64_t step = 1; step <= config.train.steps; ++step) {
    const LossTerms loss = training.step(fill, training.shares().passes, context);
    if (step == 1 || step == config.train.steps) std::printf("%f\n", loss.cross_entropy);
  }
  return 0;
}
