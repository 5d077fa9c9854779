// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/ledger.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/random.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

constexpr std::uint64_t ledger_mark = 0x3472656764656c70;  // "pledger4", little-endian
constexpr std::size_t columns = 13, records_per_column = 32;

/// A word that another process may read at any time.
using Word = std::atomic<std::int64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8);

template <std::size_t Words>
struct Text {
  std::array<Word, Words> words;

  void store(std::string_view text) {
    std::array<std::int64_t, Words> padded{};
    std::memcpy(padded.data(), text.data(), std::min(text.size(), 8 * Words - 1));
    for (std::size_t i = 0; i < Words; ++i) words[i].store(padded[i], std::memory_order_relaxed);
  }
  void copy(const Text& other) {
    for (std::size_t i = 0; i < Words; ++i)
      words[i].store(other.words[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  std::string load() const {
    std::array<std::int64_t, Words> copied{};
    for (std::size_t i = 0; i < Words; ++i) copied[i] = words[i].load(std::memory_order_relaxed);
    const char* begin = reinterpret_cast<const char*>(copied.data());
    return {begin, strnlen(begin, 8 * Words)};
  }
};

struct Place {
  Text<4> doing;
  Text<2> transfer;
  Word layer;  // 0 = none; twice the layer + 2, and 1 more in the backward pass

  void copy(const Place& other) {
    doing.copy(other.doing);
    transfer.copy(other.transfer);
    layer.store(other.layer.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  LedgerPlace load() const {
    const std::int64_t coded = layer.load(std::memory_order_relaxed);
    return {.doing = doing.load(),
            .layer = coded / 2 - 1,
            .backward = coded % 2 == 1,
            .transfer = transfer.load()};
  }
};

struct Record {
  Word sequence;  // written last: 0 while the rest changes
  Word bytes, step, posted, started, done;
  Text<3> name;
  Place place;
};

struct Column {
  Text<6> name;
  Word used, posted;
  std::array<Record, records_per_column> records;
};

std::int64_t now() {
  using std::chrono::nanoseconds;
  const auto since = [](auto clock_time) {
    return std::chrono::duration_cast<nanoseconds>(clock_time.time_since_epoch()).count();
  };
  static const std::int64_t ahead =
      since(std::chrono::system_clock::now()) - since(std::chrono::steady_clock::now());
  return ahead + since(std::chrono::steady_clock::now());
}

double seconds(std::int64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

LedgerOperation operation_of(const Record& record, std::int64_t sequence) {
  return {.sequence = sequence,
          .name = record.name.load(),
          .bytes = record.bytes,
          .step = record.step,
          .place = record.place.load(),
          .posted = seconds(record.posted),
          .started = seconds(record.started),
          .done = seconds(record.done)};
}

/// A lock of the open file, which ends when the last process that has it open does.
struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string directory_prefix() { return fmt::format("polymoe-{}-", getuid()); }

/// Where the ledgers of all runs on this node are.
std::filesystem::path ledger_root() {
  // TMPDIR comes last: a scheduler may give each job another one.
  for (const char* memory : {"/dev/shm", "/tmp"})
    if (access(memory, W_OK | X_OK) == 0) return memory;
  std::error_code error;
  const auto last = std::filesystem::temp_directory_path(error);
  return error ? "/tmp" : last;
}

Record& record_of(void* column, std::int64_t sequence) {
  return static_cast<Column*>(column)
      ->records[static_cast<std::size_t>(sequence) % records_per_column];
}

}  // namespace

double ledger_time() { return seconds(now()); }

std::string LedgerPlace::text() const {
  if (layer < 0) return doing;
  const std::size_t comma = doing.find(", ");  // "validating, forward"
  const std::string phase = comma == std::string::npos ? doing : doing.substr(comma + 2);
  const std::string what =
      fmt::format("{} of layer {}", transfer.empty() ? phase : transfer, layer);
  if (comma != std::string::npos) return what + ", " + doing.substr(0, comma);
  const std::string pass = backward ? "backward" : "forward";
  return what == pass + fmt::format(" of layer {}", layer) ? what : what + ", " + pass + " pass";
}

struct Ledger::Page {
  Word mark, rank, ranks, process, begun, locked, step, median_step, there_since, groups;
  Text<16> host, device;
  Place place;
  std::array<Column, columns> group;

  LedgerView view() const;
};

LedgerView Ledger::Page::view() const {
  LedgerView view{.rank = static_cast<int>(rank),
                  .ranks = static_cast<int>(ranks),
                  .process = static_cast<int>(process),
                  .host = host.load(),
                  .device = device.load(),
                  .begun = seconds(begun),
                  .locked = locked != 0,
                  .step = step,
                  .place = place.load(),
                  .there_since = seconds(there_since),
                  .median_step_seconds = seconds(median_step),
                  .groups = {}};
  const auto count = std::clamp<std::int64_t>(groups, 0, columns);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const Column& column = group[i];
    LedgerView::Group read{.name = column.name.load(), .posted = column.posted, .operations = {}};
    for (const Record& record : column.records) {
      const std::int64_t sequence = record.sequence.load(std::memory_order_acquire);
      LedgerOperation operation = operation_of(record, sequence);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (sequence > 0 && record.sequence.load(std::memory_order_relaxed) == sequence)
        read.operations.push_back(std::move(operation));
    }
    std::ranges::sort(read.operations, {}, &LedgerOperation::sequence);
    view.groups.push_back(std::move(read));
  }
  return view;
}

Ledger::Ledger(int rank, int ranks) {
  void* memory =
      mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw DeviceError("out of memory on cpu: no page for the ledger");
  page_ = new (memory) Page();
  page_->rank = rank;
  page_->ranks = ranks;
  page_->process = getpid();
  page_->begun = now();
  page_->host.store(host_name());
  page_->mark = static_cast<std::int64_t>(ledger_mark);
}

Ledger::~Ledger() {
  munmap(page_, sizeof(Page));
  if (descriptor_ >= 0) close(descriptor_);
}

void Ledger::keep_in(const std::filesystem::path& file) {
  const auto fail = [&](const char* action) {
    throw OutputFileError(file.string(), fmt::format("{}: {}", action, std::strerror(errno)));
  };
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  // A new file each time: whoever reads the one of a run before goes on reading that.
  std::filesystem::remove(file, error);
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) fail("cannot be made");
  struct flock whole = whole_file();
  page_->locked = fcntl(descriptor, F_OFD_SETLK, &whole) == 0 ? 1 : 0;
  // Written, not only made longer: a full file system says so here and not by SIGBUS.
  const ssize_t count = pwrite(descriptor, static_cast<void*>(page_), sizeof(Page), 0);
  const bool written = count == static_cast<ssize_t>(sizeof(Page));
  if (count >= 0 && !written) errno = ENOSPC;  // a part had room
  // In the place of the memory before, so that columns stay where they are.
  void* memory = written ? mmap(page_, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                descriptor, 0)
                         : nullptr;
  if (memory != page_) {
    const int cause = errno;
    close(descriptor);
    std::filesystem::remove(file, error);
    errno = cause;
    fail("cannot be written");
  }
  if (descriptor_ >= 0) close(descriptor_);
  descriptor_ = descriptor;
  file_ = file;
}

bool Ledger::file_in_place() const {
  struct stat kept {
  }, named{};
  return descriptor_ >= 0 && fstat(descriptor_, &kept) == 0 && stat(file_.c_str(), &named) == 0 &&
         kept.st_ino == named.st_ino && kept.st_dev == named.st_dev;
}

void Ledger::forget_file() {
  std::error_code error;
  if (file_in_place() && std::filesystem::remove(file_, error))
    std::filesystem::remove(file_.parent_path(), error);  // where it was the last one
  file_.clear();
}

void Ledger::set_device(std::string_view device) { page_->device.store(device); }
void Ledger::begin_step(std::int64_t step) { page_->step = step; }
void Ledger::set_median_step_seconds(double median) {
  page_->median_step = static_cast<std::int64_t>(median * 1e9);
}
void Ledger::set_doing(std::string_view what) {
  page_->place.doing.store(what);
  page_->there_since = now();
}
void Ledger::set_layer(std::int64_t layer, bool backward, std::string_view transfer) {
  page_->place.transfer.store(transfer);
  page_->place.layer = 2 * (layer + 1) + (backward ? 1 : 0);
  page_->there_since = now();
}

Ledger::Group Ledger::add_group(std::string_view name) {
  const std::int64_t taken = page_->groups;
  if (taken == static_cast<std::int64_t>(columns)) return Group(nullptr, 0, this);
  Column& column = page_->group[static_cast<std::size_t>(taken)];
  column.name.store(name);
  page_->groups = taken + 1;
  return Group(&column, static_cast<int>(taken), this);
}

LedgerView Ledger::view() const { return page_->view(); }

std::int64_t Ledger::Group::post(const char* operation, std::size_t bytes) {
  if (column_ == nullptr) return 0;
  auto* column = static_cast<Column*>(column_);
  const std::int64_t sequence = column->posted.load(std::memory_order_relaxed) + 1;
  Record& record = record_of(column_, sequence);
  record.sequence.store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  record.name.store(operation);
  record.bytes.store(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
  const auto* page = ledger_->page_;
  record.step.store(page->step.load(std::memory_order_relaxed), std::memory_order_relaxed);
  record.place.copy(page->place);
  record.started.store(0, std::memory_order_relaxed);
  record.done.store(0, std::memory_order_relaxed);
  record.posted.store(now(), std::memory_order_relaxed);
  record.sequence.store(sequence, std::memory_order_release);
  column->posted.store(sequence, std::memory_order_release);
  return sequence;
}

void Ledger::Group::start(std::int64_t sequence) {
  if (column_ == nullptr || sequence <= 0) return;
  Record& record = record_of(column_, sequence);
  if (record.sequence.load(std::memory_order_relaxed) == sequence) record.started = now();
}

void Ledger::Group::finish(std::int64_t sequence) {
  if (column_ == nullptr || sequence <= 0) return;
  Record& record = record_of(column_, sequence);
  if (record.sequence.load(std::memory_order_relaxed) != sequence) return;
  const std::int64_t end = now();
  // Of one that was over before anybody looked the wait is not known apart.
  if (record.started.load(std::memory_order_relaxed) == 0)
    record.started.store(record.posted.load(std::memory_order_relaxed), std::memory_order_relaxed);
  record.done = end;
  if (!ledger_->recorded_.load(std::memory_order_relaxed)) return;
  const LedgerOperation operation = operation_of(record, sequence);
  const std::lock_guard lock(ledger_->mutex_);
  if (ledger_->recorder_)
    ledger_->recorder_(number_, static_cast<Column*>(column_)->name.load(), operation);
}

void Ledger::set_recorder(Recorder recorder) {
  const std::lock_guard lock(mutex_);
  recorder_ = std::move(recorder);
  recorded_ = static_cast<bool>(recorder_);
}

std::filesystem::path ledger_directory(const std::filesystem::path& run_directory) {
  // The same before the run directory is made and after, and with a slash behind it.
  std::error_code error;
  auto whole = std::filesystem::absolute(run_directory, error);
  whole = std::filesystem::weakly_canonical(error ? run_directory : whole, error);
  if (error) whole = run_directory;
  if (!whole.has_filename()) whole = whole.parent_path();
  return ledger_root() / fmt::format("{}{:016x}", directory_prefix(), hash_of(whole.string()));
}

std::vector<std::filesystem::path> ledger_directories() {
  std::vector<std::filesystem::path> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(ledger_root(), error))
    if (entry.path().filename().string().starts_with(directory_prefix()) &&
        entry.symlink_status(error).type() == std::filesystem::file_type::directory)
      all.push_back(entry.path());
  return all;
}

bool ledger_is_held(const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return false;
  struct flock whole = whole_file();
  const bool held = fcntl(descriptor, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
  close(descriptor);
  return held;
}

std::string ledger_name(int rank) { return fmt::format("rank-{:05}", rank); }

LedgerView read_ledger(const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw InputFileError(file.string(), std::strerror(errno));
  const auto page = std::make_unique<Ledger::Page>();
  const ssize_t count = pread(descriptor, static_cast<void*>(page.get()), sizeof(Ledger::Page), 0);
  close(descriptor);
  if (count != static_cast<ssize_t>(sizeof(Ledger::Page)) ||
      page->mark != static_cast<std::int64_t>(ledger_mark))
    throw InputFileError(file.string(), "is no ledger of this version");
  return page->view();
}

}  // namespace polymoe
