// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_run.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <list>
#include <map>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/signals.h"
#include "launch/studies/cell_process.h"
#include "launch/studies/cell_state.h"
#include "launch/studies/claim.h"
#include "launch/studies/study.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/progress.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The GPUs that cells may take, as CUDA_VISIBLE_DEVICES names them.
std::vector<std::string> visible_gpus() {
  std::vector<std::string> names;
  const int count = cuda::device_count();
  const char* given = std::getenv("CUDA_VISIBLE_DEVICES");
  std::string text = given == nullptr ? "" : given;
  for (int i = 0; i < count; ++i) {
    const std::size_t comma = std::min(text.find(','), text.size());
    names.push_back(given == nullptr ? std::to_string(i) : text.substr(0, comma));
    text.erase(0, comma + 1);
  }
  return names;
}

/// A cell that runs.
struct Job {
  std::size_t cell = 0;
  int slot = 0;
  std::int64_t steps = 0;  // of this process
  Clock::time_point begin = Clock::now();
  Claim claim;
  CellProcess process;
};

class Runner {
 public:
  Runner(const Study& study, const StudyRunOptions& options, std::ostream& out)
      : study_(study), options_(options), out_(out) {
    for (std::size_t i = 0; i < study.cells.size(); ++i) open_.insert(i);
    const bool several = std::any_of(study.cells.begin(), study.cells.end(),
                                     [](const Cell& cell) { return cell.ranks > 1; });
    if (several && !fs::exists(options.launcher))
      throw InvalidArgument("--launcher " + options.launcher.string() +
                            ": cells of several ranks need launch/mpirun/run; name it");
  }

  int run() {
    skip_what_needs_nothing();
    if (options_.dry_run) return tell_dry_run();
    auto refreshed = Clock::now();
    auto looked = Clock::time_point();
    while (true) {
      collect();
      stop_where_asked();
      if (!stopping() && (seconds_since(looked) > 1.0 || changed_)) {
        changed_ = false;
        start_what_can();
        looked = Clock::now();
      }
      if (jobs_.empty() && (stopping() || !waits_for_others())) break;
      if (seconds_since(refreshed) > Claim::refresh_seconds) {
        for (const Job& job : jobs_) job.claim.refresh();
        refreshed = Clock::now();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    drop_trunks();
    return tell_end();
  }

 private:
  const Cell& cell(std::size_t index) const { return study_.cells[index]; }

  void tell(std::size_t index, const std::string& text) {
    out_ << fmt::format("[{}/{}] {}: {}\n", index + 1, study_.cells.size(), cell(index).name, text)
         << std::flush;
  }

  void skip_what_needs_nothing() {
    for (std::size_t i = 0; i < study_.cells.size(); ++i) {
      const CellState state = state_of(cell(i));
      if (state.kind == CellState::Kind::finished) {
        open_.erase(i);
        ++skipped_;
      } else if (state.exit_code == exit_not_finite && !options_.retry) {
        open_.erase(i);
        failed_[i] = {exit_not_finite, state.last_line + " (--retry runs it again)"};
      }
    }
  }

  int tell_dry_run() {
    for (const std::size_t i : open_) {
      const CellState state = state_of(cell(i));
      std::string text = fmt::format("would run, {} of {} steps are done", state.steps,
                                     cell(i).config.train.steps);
      if (cell(i).kind == CellKind::branch && state.steps == 0)
        text =
            fmt::format("would start from step {} of {}", cell(i).fork, cell(cell(i).trunk).name);
      if (state.exit_code)
        text += fmt::format("; failed before with exit code {}", *state.exit_code);
      tell(i, text);
    }
    out_ << fmt::format("{} would run, {} finished, {} diverged\n", open_.size(), skipped_,
                        failed_.size());
    return exit_done;
  }

  /// The step up to which the next process of a cell trains.
  std::int64_t next_steps(const Cell& of) const {
    const std::int64_t done = state_of(of).steps;
    for (const std::int64_t fork : of.forks)
      if (fork > done) return fork;
    return of.config.train.steps;
  }

  void start_what_can() {
    held_.clear();
    for (auto next = open_.begin(); next != open_.end() && free_slot();) {
      const std::size_t index = *next++;
      if (!may_start(study_, cell(index))) continue;
      std::string holder;
      std::optional<Claim> claim = Claim::take(cell(index).config.run.dir, holder);
      if (!claim) {
        held_[index] = holder;
        continue;
      }
      open_.erase(index);
      // Another process may have finished it since we looked.
      if (state_of(cell(index)).kind == CellState::Kind::finished)
        ++skipped_;
      else
        start(index, *std::move(claim));
    }
  }

  std::optional<int> free_slot() const {
    for (int slot = 0; slot < options_.jobs; ++slot)
      if (std::none_of(jobs_.begin(), jobs_.end(),
                       [&](const Job& job) { return job.slot == slot; }))
        return slot;
    return std::nullopt;
  }

  void start(std::size_t index, Claim claim) {
    const Cell& of = cell(index);
    const CellState state = state_of(of);
    const int slot = *free_slot();
    const std::int64_t steps = next_steps(of);
    const fs::path run = of.config.run.dir;
    replace_file(run / "cell.ini", to_ini(of.config));
    ProcessStart start{.arguments = {}, .environment = {}, .output = run / "log"};
    if (of.ranks > 1) start.arguments = {options_.launcher.string(), std::to_string(of.ranks)};
    for (const std::string& argument :
         {options_.program.string(), std::string("train"), std::string("--config"),
          (run / "cell.ini").string(), fmt::format("--train.steps={}", steps)})
      start.arguments.push_back(argument);
    // A branch starts from its trunk once, and then goes on from its own checkpoints.
    if (of.kind == CellKind::branch && state.steps > 0)
      start.arguments.emplace_back("--checkpoint.resume=auto");
    if (of.config.run.threads == 0) {
      const int threads = std::max(usable_cores() / (options_.jobs * of.ranks), 1);
      start.arguments.push_back(fmt::format("--run.threads={}", threads));
      start.environment.emplace_back("OMP_NUM_THREADS", std::to_string(threads));
    }
    if (options_.jobs > 1) start.environment.emplace_back("POLYMOE_SHARED_NODE", "1");
    if (of.config.run.device != "cpu" && !gpus_.empty()) {
      std::string devices;
      for (int rank = 0; rank < std::min(of.ranks, static_cast<int>(gpus_.size())); ++rank)
        devices += (rank == 0 ? "" : ",") +
                   gpus_[static_cast<std::size_t>(slot * of.ranks + rank) % gpus_.size()];
      start.environment.emplace_back("CUDA_VISIBLE_DEVICES", devices);
    }
    tell(index, state.steps > 0 ? fmt::format("goes on behind step {}", state.steps)
                                : std::string("starts"));
    jobs_.push_back({.cell = index,
                     .slot = slot,
                     .steps = steps,
                     .claim = std::move(claim),
                     .process = CellProcess(start)});
  }

  void collect() {
    for (auto job = jobs_.begin(); job != jobs_.end();) {
      if (const std::optional<int> code = job->process.ended()) {
        end(*job, *code);
        job = jobs_.erase(job);
        changed_ = true;
      } else {
        ++job;
      }
    }
  }

  void end(const Job& job, int code) {
    const Cell& of = cell(job.cell);
    const fs::path run = of.config.run.dir;
    const std::string line = last_line(run / "log");
    const bool stopped = stopping() && (code == exit_preempted || code > 128);
    if (code == exit_preempted || stopped) {
      tell(job.cell,
           fmt::format("stopped after {}, to be resumed", clock_text(seconds_since(job.begin))));
      ++stopped_;
      return;
    }
    if (code != 0) {
      record_end(of, code, line);
      failed_[job.cell] = {code, line};
      tell(job.cell, fmt::format("failed with exit code {}: {}", code, line));
      return;
    }
    if (job.steps < of.config.train.steps) {
      tell(job.cell, fmt::format("reached step {}, from which branches start", job.steps));
      open_.insert(job.cell);
      return;
    }
    record_end(of, 0, line);
    ++finished_;
    tell(job.cell, fmt::format("finished in {}", clock_text(seconds_since(job.begin))));
    if (of.kind != CellKind::trunk && !study_.keep_checkpoints) fs::remove_all(run / "checkpoints");
  }

  static bool stopping() { return stop_request() != StopRequest::none; }

  void stop_where_asked() {
    if (!stopping() || std::exchange(told_, true)) return;
    out_ << "stopping: each cell finishes its step and saves\n" << std::flush;
    for (const Job& job : jobs_) job.process.signal(SIGUSR1);
  }

  /// Branches whose trunk another process trains.
  bool waits_for_others() {
    return std::any_of(open_.begin(), open_.end(), [&](std::size_t index) {
      return cell(index).kind == CellKind::branch && held_.contains(cell(index).trunk);
    });
  }

  void drop_trunks() {
    if (study_.keep_checkpoints) return;
    for (std::size_t i = 0; i < study_.cells.size(); ++i) {
      if (cell(i).kind != CellKind::trunk) continue;
      const bool needed =
          std::any_of(study_.cells.begin(), study_.cells.end(), [&](const Cell& other) {
            return other.kind == CellKind::branch && other.trunk == i &&
                   state_of(other).kind != CellState::Kind::finished;
          });
      if (!needed && state_of(cell(i)).kind == CellState::Kind::finished)
        fs::remove_all(fs::path(cell(i).config.run.dir) / "checkpoints");
    }
  }

  int tell_end() {
    out_ << fmt::format("\n{} finished now, {} before, {} failed, {} stopped, {} left\n", finished_,
                        skipped_, failed_.size(), stopped_, open_.size());
    for (const auto& [index, failure] : failed_)
      out_ << fmt::format("failed: {}: exit code {}: {}\n", cell(index).name, failure.first,
                          failure.second);
    for (const std::size_t index : open_) {
      std::string why = "not started";
      if (held_.contains(index)) why = "run by " + held_[index];
      if (cell(index).kind == CellKind::branch && !may_start(study_, cell(index)))
        why = "its trunk did not reach step " + std::to_string(cell(index).fork);
      out_ << fmt::format("left: {}: {}\n", cell(index).name, why);
    }
    out_ << std::flush;
    if (stopping()) return exit_preempted;
    return failed_.empty() ? exit_done : failed_.begin()->second.first;
  }

  const Study& study_;
  const StudyRunOptions& options_;
  std::ostream& out_;
  const std::vector<std::string> gpus_ = visible_gpus();
  std::set<std::size_t> open_;                                 // to be started, by this process
  std::map<std::size_t, std::string> held_;                    // by others, as far as we looked
  std::map<std::size_t, std::pair<int, std::string>> failed_;  // exit code, last line
  std::list<Job> jobs_;
  bool told_ = false;
  bool changed_ = true;
  int finished_ = 0, skipped_ = 0, stopped_ = 0;
};

}  // namespace

int run_study(const Study& study, const StudyRunOptions& options, std::ostream& out) {
  return Runner(study, options, out).run();
}

fs::path own_program() { return fs::read_symlink("/proc/self/exe"); }

fs::path find_launcher(const fs::path& program) {
  const fs::path directory = program.parent_path();
  for (const fs::path& place :
       {directory / "../../launch/mpirun/run", directory / "../share/polymoe/mpirun/run"})
    if (fs::exists(place)) return fs::canonical(place);
  return {};
}

}  // namespace polymoe
