// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/mpi/environment.h"

#include <mpi.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/mpi/check.h"
#include "parallel/communication/mpi/mpi_transport.h"
#include "parallel/communication/queued_communicator.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// Whether a process may read another's memory in one copy. Containers often forbid it, which Open
/// MPI learns only from the first large message, with a line on stderr for each.
bool single_copy_permitted() {
  char from = 1, to = 0;
  const iovec local{&to, 1}, remote{&from, 1};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

}  // namespace

MpiEnvironment::MpiEnvironment() {
  if (!single_copy_permitted()) setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  int provided = 0;
  mpi::check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  mpi::check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_MULTIPLE) {
    throw CommunicationError("this MPI gives thread level " + std::to_string(provided) +
                             ", MPI_THREAD_MULTIPLE (" + std::to_string(MPI_THREAD_MULTIPLE) +
                             ") is needed: " + library_version());
  }
  mpi::check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  mpi::check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
             "MPI_Comm_split_type");
  mpi::check(MPI_Comm_rank(node, &rank_on_node_), "MPI_Comm_rank");
  mpi::check(MPI_Comm_size(node, &ranks_on_node_), "MPI_Comm_size");
  mpi::check(MPI_Comm_free(&node), "MPI_Comm_free");
}

std::string MpiEnvironment::library_version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  mpi::check(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of(std::string("\n\0", 2)));
}

std::unique_ptr<Communicator> MpiEnvironment::make_world(double timeout_seconds,
                                                         Ledger* ledger) const {
  return std::make_unique<QueuedCommunicator>(
      mpi::make_world_transport(),
      QueuedCommunicator::Options{
          .group = "world", .timeout_seconds = timeout_seconds, .ledger = ledger});
}

std::unique_ptr<Communicator> MpiEnvironment::make_world() const {
  return make_world(QueuedCommunicator::Options{}.timeout_seconds);
}

void MpiEnvironment::finalize() { mpi::check(MPI_Finalize(), "MPI_Finalize"); }

void MpiEnvironment::abort(int exit_code) const {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace polymoe
