// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_trace.h"

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/step_range.h"
#include "launch/training/run_directory.h"
#include "launch/training/trace_file.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/cuda/profiler_ranges.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/log.h"
#include "runtime/stream.h"
#include "runtime/system.h"
#include "runtime/timeline.h"

namespace polymoe {

StepTrace::StepTrace(const Config& config, const ProcessMesh& mesh, Stream& stream, Ledger* ledger)
    : config_(config),
      mesh_(mesh),
      stream_(stream),
      ledger_(ledger),
      on_gpu_(stream.device().type == DeviceType::cuda),
      range_(StepRange::parse(config.run.trace)),
      events_(stream.device().index) {}

StepTrace::~StepTrace() {
  if (ledger_ != nullptr) ledger_->set_recorder({});
  for (const Mark& mark : marks_) cuda::destroy_event(mark.event);
  if (base_ != nullptr) cuda::destroy_event(base_);
}

double StepTrace::now() const { return ledger_time() - origin_; }

void StepTrace::run_begins(std::int64_t first, std::int64_t last) {
  if (!range_ || (range_->first <= last && range_->first >= first)) return;
  if (mesh_.world().rank() == 0)
    Log(Log::alone, run_log(config_.run.dir))
        .warning(fmt::format("run.trace = {}: nothing is traced, because this start does steps {} "
                             "to {}",
                             config_.run.trace, first, last));
}

void StepTrace::step_begins(std::int64_t step) {
  if (on_gpu_) cuda::profiler_range("step");
  if (!range_) return;
  if (step == range_->first) begin();
  if (active_) step_begin_ = now();
}

void StepTrace::begin() {
  trace_ = {};
  trace_.title = fmt::format("rank {} on {}, {}", mesh_.world().rank(), host_name(),
                             name_of(stream_.device()));
  stream_.synchronize();
  if (on_gpu_ && base_ == nullptr) base_ = cuda::create_event(stream_.device().index);
  mesh_.world().barrier();
  origin_ = ledger_time();
  if (on_gpu_) cuda::record_event(base_, stream_.native());
  phase_ = Phase::other;
  phase_begin_ = 0.0;
  active_ = true;
  if (ledger_ == nullptr) return;
  ledger_->set_recorder([this](int group, const std::string& name, const LedgerOperation& one) {
    const std::lock_guard lock(mutex_);
    trace_.operations.push_back({.group = group,
                                 .group_name = name,
                                 .sequence = one.sequence,
                                 .name = one.name,
                                 .bytes = one.bytes,
                                 .place = one.place.text(),
                                 .posted = one.posted - origin_,
                                 .begin = one.started - origin_,
                                 .end = one.done - origin_});
  });
}

void StepTrace::end_phase(double now) {
  if (now > phase_begin_)
    trace_.host.push_back({.name = name_of(phase_), .begin = phase_begin_, .end = now});
  phase_begin_ = now;
}

void StepTrace::phase_begins(Phase phase) {
  if (on_gpu_) cuda::profiler_range(name_of(phase));
  if (!active_) return;
  end_phase(now());
  phase_ = phase;
  if (!on_gpu_) return;
  void* const event = events_.take();
  cuda::record_event(event, stream_.native());
  marks_.push_back({phase, event});
}

void StepTrace::settle_marks() {
  for (std::size_t i = 0; i + 1 < marks_.size(); ++i) {
    const double begin = cuda::seconds_between(base_, marks_[i].event);
    const double end = cuda::seconds_between(base_, marks_[i + 1].event);
    trace_.stream.push_back({.name = name_of(marks_[i].phase), .begin = begin, .end = end});
  }
  if (marks_.empty()) return;
  for (std::size_t i = 0; i + 1 < marks_.size(); ++i) events_.give_back(marks_[i].event);
  marks_.erase(marks_.begin(), marks_.end() - 1);
}

void StepTrace::step_ends(std::int64_t step) {
  if (!active_) return;
  const double end = now();
  trace_.steps.push_back({.name = fmt::format("step {}", step), .begin = step_begin_, .end = end});
  last_step_ = step;
  settle_marks();
  if (step != range_->last) return;
  end_phase(end);
  write();
}

void StepTrace::run_ends() {
  if (active_) write();
}

void StepTrace::write() {
  active_ = false;
  if (ledger_ != nullptr) ledger_->set_recorder({});
  std::string own;
  {
    const std::lock_guard lock(mutex_);
    own = trace_.to_text();
    trace_ = {};
  }
  const std::vector<std::string> texts = gather_text(own, mesh_.world());
  if (mesh_.world().rank() != 0) return;
  Log log(Log::alone, run_log(config_.run.dir));
  try {
    std::vector<RankTrace> ranks;
    for (const std::string& text : texts) ranks.push_back(RankTrace::from_text(text));
    const std::filesystem::path file = std::filesystem::path(config_.run.dir) /
                                       fmt::format("trace-{}-{}.json", range_->first, last_step_);
    replace_file(file, chrome_trace(ranks));
    log.info(fmt::format("trace of steps {} to {}: {}; open it in ui.perfetto.dev", range_->first,
                         last_step_, file.string()));
  } catch (const OutputFileError& error) {
    log.warning(fmt::format("no trace: {}", error.what()));
  }
}

}  // namespace polymoe
