// SPDX-License-Identifier: Apache-2.0
// What a rank is doing, written down where others can read it while it does it, and after its
// death.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

struct LedgerView;
/// Throws InputFileError where the file is no ledger of this version.
LedgerView read_ledger(const std::filesystem::path& file);

/// Seconds since 1970 by the clock of this process's ledgers: the system's when it was first asked,
/// and a steady one since, so that no jump of the system's clock makes anybody wait for long.
double ledger_time();

/// What the host of a rank does, and where in the model.
struct LedgerPlace {
  std::string doing = {};     // "backward", "validating, exchange"; empty before it said anything
  std::int64_t layer = -1;    // -1 = in none
  bool backward = false;      // in the backward pass of that layer
  std::string transfer = {};  // of that layer, "dispatch"; empty = in none

  /// "dispatch of layer 7, backward pass", "gradient_reduction of layer 7, backward pass", "data",
  /// "dispatch of layer 7, validating".
  std::string text() const;
};

/// An operation of a group as its ledger tells it. Times are seconds since 1970; 0 = not yet.
struct LedgerOperation {
  std::int64_t sequence = 0;  // from 1, in the order of posting; the same on all ranks of the group
  std::string name;           // "all_to_all"
  std::int64_t bytes = 0;     // of the tensors that this rank brought
  std::int64_t step = 0;      // in which it was posted, and where the host was then
  LedgerPlace place = {};
  double posted = 0.0;
  double started = 0.0;
  double done = 0.0;
};

/// A ledger, read.
struct LedgerView {
  struct Group {
    std::string name;  // "world", "world/0"
    std::int64_t posted = 0;
    std::vector<LedgerOperation> operations;  // the last ones, oldest first
  };

  int rank = 0;
  int ranks = 1;
  int process = 0;
  std::string host;
  std::string device;
  double begun = 0.0;     // when this process made it
  bool locked = false;    // the file is, for as long as the process lives
  std::int64_t step = 0;  // under way; 0 = before the first
  LedgerPlace place;
  double there_since = 0.0;
  double median_step_seconds = 0.0;  // 0 = unknown
  std::vector<Group> groups;
};

/// A rank's ledger: memory of a fixed size, mapped from a file once it has one, so that it outlives
/// the process whatever ended it. Writing is a few stores; nothing is allocated and nothing waits.
class Ledger {
 public:
  /// The column of one group. One thread at a time posts; one at a time works.
  class Group {
   public:
    /// Returns the operation's number.
    std::int64_t post(const char* operation, std::size_t bytes);
    /// Notes nothing of an operation so old that it is no longer kept.
    void start(std::int64_t sequence);
    void finish(std::int64_t sequence);

   private:
    friend class Ledger;
    Group(void* column, int number, Ledger* ledger)
        : column_(column), number_(number), ledger_(ledger) {}
    void* column_;  // null: what is written is forgotten
    int number_;
    Ledger* ledger_;  // outlives this
  };

  Ledger(int rank, int ranks);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  /// From here on in that file too, what was written so far included; one that is there is
  /// replaced. While nobody else writes. Throws OutputFileError.
  void keep_in(const std::filesystem::path& file);
  /// Whether the file that it is kept in still has its name: nobody removed or replaced it.
  bool file_in_place() const;
  /// Removes the file: there is nothing left to tell.
  void forget_file();
  /// Empty until keep_in().
  const std::filesystem::path& file() const { return file_; }

  void set_device(std::string_view device);
  void begin_step(std::int64_t step);
  void set_median_step_seconds(double seconds);
  /// What the host does from now on.
  void set_doing(std::string_view what);
  /// Where in the model; see LedgerPlace.
  void set_layer(std::int64_t layer, bool backward, std::string_view transfer);

  /// A column for a group of that name; further ones than it has room for are forgotten.
  Group add_group(std::string_view name);

  /// Tells `recorder` of each operation as soon as it is done, on the thread that did it, one at a
  /// time: the group's number, in the order of add_group(), and name. Empty = nobody; on return the
  /// one before is not called any more. Any thread.
  using Recorder =
      std::function<void(int number, const std::string& group, const LedgerOperation& operation)>;
  void set_recorder(Recorder recorder);

  /// What it holds now; any thread.
  LedgerView view() const;

 private:
  friend LedgerView read_ledger(const std::filesystem::path& file);
  struct Page;
  Page* page_;
  std::filesystem::path file_;
  int descriptor_ = -1;  // of the file, and with it the lock
  std::atomic<bool> recorded_ = false;
  std::mutex mutex_;  // guards the recorder
  Recorder recorder_;
};

/// Whether a process that lives keeps its ledger in that file. False where it was kept without a
/// lock.
bool ledger_is_held(const std::filesystem::path& file);

/// The ledgers of a run on this node: a directory of memory that survives a process, but not the
/// machine, named after the run directory.
std::filesystem::path ledger_directory(const std::filesystem::path& run_directory);
/// Those of all runs of this user on this node.
std::vector<std::filesystem::path> ledger_directories();
/// "rank-00003".
std::string ledger_name(int rank);

}  // namespace polymoe
