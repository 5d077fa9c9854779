// SPDX-License-Identifier: Apache-2.0
#include "launch/step/evaluation.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/reduction/reduction.h"
#include "launch/data/document_ends.h"
#include "launch/data/token_rows.h"
#include "launch/step/token_batch.h"
#include "layers/batch.h"
#include "moe/language_model.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// Windows of equal length that one rank evaluates in one pass.
struct Pass {
  std::int64_t first_token = 0;
  std::int64_t windows = 0;
  std::int64_t length = 0;  // predictions of each
};

/// All passes over the file, in order; the i-th belongs to rank i % ranks.
std::vector<Pass> cut(std::int64_t tokens, const EvaluationWindows& windows) {
  const std::int64_t predictions = tokens - 1;
  std::int64_t whole = predictions / windows.context;
  std::int64_t rest = predictions % windows.context;
  if (windows.max_windows > 0 && whole >= windows.max_windows) {
    whole = windows.max_windows;
    rest = 0;
  }
  std::vector<Pass> passes;
  for (std::int64_t first = 0; first < whole; first += windows.per_batch)
    passes.push_back({.first_token = first * windows.context,
                      .windows = std::min(windows.per_batch, whole - first),
                      .length = windows.context});
  if (rest > 0)
    passes.push_back({.first_token = whole * windows.context, .windows = 1, .length = rest});
  return passes;
}

/// The sum of the losses; `counted` becomes the number of predictions that are in it.
double evaluate_pass(LanguageModel& model, const TokenFile& file, const Pass& pass,
                     const DocumentEnds* documents, std::int64_t* counted,
                     ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  const std::int64_t rows = pass.windows * pass.length, vocab = model.config().vocab;
  // The windows are consecutive in the file, so one read serves them all.
  const auto fill = [&](const TokenRows& to) {
    if (rows == 0) return;
    file.read(pass.first_token, rows, to.tokens, vocab);
    file.read_targets(pass.first_token + 1, rows, to.targets, vocab);
    if (documents != nullptr) documents->split(file, pass.first_token, rows, pass.length, to);
    *counted = std::count_if(to.targets, to.targets + rows, [](auto id) { return id >= 0; });
  };
  const TokenBatch batch = make_batch(
      {.sequences = pass.windows, .length = pass.length, .documents = documents != nullptr}, fill,
      context);
  const Tensor losses = model.token_losses(batch, context);
  const Tensor result = context.arena.allocate({1}, DType::f64);
  sum(losses, result, context.arena, context.stream);
  return host_values<double>(result, context.stream)[0];
}

}  // namespace

double Evaluation::loss() const { return loss_sum / static_cast<double>(tokens); }
double Evaluation::perplexity() const { return std::exp(loss()); }

Evaluation evaluate(LanguageModel& model, const TokenFile& file, const EvaluationWindows& windows,
                    const ProcessMesh& mesh, ExecutionContext& context) {
  if (file.tokens() < 2)
    throw InputFileError(
        file.path().string(),
        fmt::format("has {} tokens: at least 2 are needed to predict one", file.tokens()));
  const std::vector<Pass> passes = cut(file.tokens(), windows);
  Communicator& world = mesh.world();
  const auto ranks = static_cast<std::size_t>(world.size());
  // One sum per pass: the total is formed in the order of the file, whatever the layout.
  const OwnedTensor sums({2 * static_cast<std::int64_t>(passes.size())}, DType::f64, Device::cpu());
  std::int64_t all_windows = 0;
  for (const Pass& pass : passes) all_windows += pass.windows;
  Progress progress(windows.progress,
                    {.what = "evaluating", .total = all_windows, .unit = "windows"});
  for (std::size_t first = 0; first < passes.size(); first += ranks) {
    if (windows.leave && windows.leave()) return {.complete = false};
    const std::size_t mine = first + static_cast<std::size_t>(world.rank());
    const bool idle = mine >= passes.size();
    const Pass pass = idle ? Pass{.length = windows.context} : passes[mine];
    std::int64_t counted = 0;
    const double value = evaluate_pass(model, file, pass, windows.documents, &counted, context);
    for (std::size_t i = first; i < std::min(first + ranks, passes.size()); ++i)
      progress.advance(passes[i].windows);
    if (idle) continue;
    sums->data<double>()[2 * mine] = value;
    sums->data<double>()[2 * mine + 1] = static_cast<double>(counted);
  }
  world.all_reduce(*sums, Reduction::sum, context.stream);

  Evaluation result;
  for (std::size_t i = 0; i < passes.size(); ++i) {
    result.loss_sum += sums->data<double>()[2 * i];
    result.tokens += static_cast<std::int64_t>(sums->data<double>()[2 * i + 1]);
  }
  return result;
}

}  // namespace polymoe
