// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "parallel/communication/collectives.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/transport.h"
#include "runtime/buffer.h"

namespace polymoe {

/// A communicator for host memory over any transport. Posted operations run one after the other on
/// a worker thread, which starts with the first of them; a blocking operation runs on the calling
/// thread where nothing is queued before it. Tensors on the meta device are left alone.
///
/// One thread at a time uses it. After a CommunicationError every further operation throws the
/// same one.
class QueuedCommunicator final : public Communicator {
 public:
  struct Options {
    std::string group = "world";     // its name in error messages
    double timeout_seconds = 600.0;  // per operation, from when its turn comes
    Ledger* ledger = nullptr;        // where operations are written down; null = nowhere
  };

  QueuedCommunicator(std::unique_ptr<Transport> transport, Options options);
  ~QueuedCommunicator() override;

  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  Pending start(const Collective& operation, Stream& stream) override;
  void barrier() override;
  void all_to_all_counts(std::span<const std::int64_t> send,
                         std::span<std::int64_t> receive) override;
  std::unique_ptr<Communicator> split(int color) override;
  void interrupt() override { transport_->interrupt(); }
  void shutdown() override;

 private:
  class Posted;
  /// A checked operation, ready to run; no work where this rank alone settles it at once.
  struct Operation {
    const char* name;
    std::function<void(Collectives&)> work;
    std::size_t bytes = 0;      // for the ledger, like
    std::int64_t sequence = 0;  // its number there
  };
  struct Entry {
    Operation operation;
    std::shared_ptr<Posted> posted;
  };

  /// Checks what is asked for.
  Operation make(const Collective& asked, const char* name) const;
  void check_open(const char* operation) const;
  std::string where(const char* operation) const;
  Pending post(Operation operation);
  void run(Operation operation);
  /// What went wrong, if anything did. Remembers it.
  std::optional<std::string> execute(const Operation& operation, bool background);
  void enter_in_ledger(Operation& operation);
  void work_off_queue();
  void stop_worker();

  std::unique_ptr<Transport> transport_;
  Options options_;
  std::optional<Ledger::Group> ledger_;
  Buffer staging_;
  bool closed_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Entry> queue_;
  bool busy_ = false;
  bool stopping_ = false;
  std::optional<std::string> failure_;

  std::thread worker_;
};

}  // namespace polymoe
