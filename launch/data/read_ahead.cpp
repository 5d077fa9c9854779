// SPDX-License-Identifier: Apache-2.0
#include "launch/data/read_ahead.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <utility>

#include "kernels/documents.h"
#include "launch/data/token_data.h"
#include "launch/data/token_rows.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// As many steps as fit some memory, but one at least.
std::size_t depth_of(const ReadAhead::Settings& settings, std::int64_t context) {
  constexpr std::int64_t most_bytes = std::int64_t{64} << 20, most_steps = 8;
  const auto samples = static_cast<std::int64_t>(settings.samples.size());
  const std::int64_t bytes = std::max<std::int64_t>(1, samples * context * 8);
  return static_cast<std::size_t>(std::clamp<std::int64_t>(most_bytes / bytes, 1, most_steps));
}

}  // namespace

ReadAhead::ReadAhead(const TokenData& data, Settings settings)
    : data_(data),
      settings_(std::move(settings)),
      depth_(depth_of(settings_, data.context())),
      thread_([this] { work(); }) {}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

TokenRows ReadAhead::Step::from(std::int64_t row) {
  const TokenRows all{
      .tokens = tokens.data(),
      .targets = targets.data(),
      .document_starts = document_starts.empty() ? nullptr : document_starts.data()};
  return all.from(row);
}

ReadAhead::Step ReadAhead::read(std::int64_t first) const {
  const auto context = static_cast<std::size_t>(data_.context());
  Step step;
  step.tokens.resize(settings_.samples.size() * context);
  step.targets.resize(step.tokens.size());
  if (data_.keeps_documents()) step.document_starts.resize(step.tokens.size());
  for (std::size_t i = 0; i < settings_.samples.size(); ++i)
    data_.sample(first + settings_.samples[i], step.from(static_cast<std::int64_t>(i * context)));
  step.padding = std::count(step.document_starts.begin(), step.document_starts.end(), no_document);
  step.predicted = std::count_if(step.targets.begin(), step.targets.end(),
                                 [](std::int32_t id) { return id >= 0; });
  return step;
}

void ReadAhead::work() {
  for (std::int64_t first = settings_.first; first < settings_.last; first += settings_.per_step) {
    Step step;
    std::exception_ptr failure;
    try {
      step = read(first);
    } catch (...) {
      failure = std::current_exception();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_ || ready_.size() < depth_; });
    if (stop_) return;
    if (failure)
      failure_ = failure;
    else
      ready_.push_back(std::move(step));
    changed_.notify_all();
    if (failure) return;
  }
  const std::lock_guard lock(mutex_);
  failure_ = std::make_exception_ptr(Error("no step is left to be read"));
  changed_.notify_all();
}

ReadAhead::Step ReadAhead::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || failure_; });
  if (ready_.empty()) std::rethrow_exception(failure_);
  Step step = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return step;
}

}  // namespace polymoe
