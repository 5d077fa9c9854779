// SPDX-License-Identifier: Apache-2.0
// polymoe, one rank of which goes wrong when it first turns to something in the second step that it
// does; "starting" and "preparing" come before its steps:
//
//   faulty_rank exit|throw|loop|stop WHAT RANK ARGUMENT-OF-POLYMOE...
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "launch/commands/program.h"
#include "launch/machine/signals.h"

// As of polymoe itself.
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)() = polymoe::block_signals;

namespace polymoe {
namespace {

class Fault final : public RunObserver {
 public:
  Fault(std::string_view kind, std::string_view what, bool armed)
      : kind_(kind), what_(what), armed_(armed) {}
  void turns_to(std::int64_t step, const std::string& what) override {
    if (step > 0 && first_ == 0) first_ = step;
    const bool before = what == "starting" || what == "preparing";
    if (!armed_ || what != what_ || (!before && step != first_ + 1)) return;
    armed_ = false;
    std::fprintf(stderr, "fault: %s in %s of step %ld\n", kind_.data(), what.c_str(),
                 static_cast<long>(step));
    if (kind_ == "exit") std::exit(3);
    if (kind_ == "throw") throw std::runtime_error("injected in " + what);
    if (kind_ == "stop") std::raise(SIGSTOP);
    while (!ended_) {
    }
  }

 private:
  std::string_view kind_, what_;
  bool armed_;
  std::int64_t first_ = 0;
  std::atomic<bool> ended_ = false;  // never
};

}  // namespace
}  // namespace polymoe

int main(int argc, char** argv) {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (argc < 4 || rank == nullptr) {
    std::fputs("usage: under mpirun, faulty_rank exit|throw|loop|stop WHAT RANK ARGUMENT...\n",
               stderr);
    return 64;
  }
  polymoe::start_signal_thread();
  polymoe::Fault fault(argv[1], argv[2], std::string_view(rank) == argv[3]);
  return polymoe::run_program({argv + 4, argv + argc}, &fault);
}
