// SPDX-License-Identifier: Apache-2.0
// polymoe, one rank of which is killed while it saves its second checkpoint, or removes its first,
// which goes with the third:
//
//   killed_save POINT RANK ARGUMENT-OF-POLYMOE...
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "launch/commands/program.h"

namespace polymoe {
namespace {

constexpr std::array<std::string_view, 5> points = {"staging", "writing", "before_rename",
                                                    "after_rename", "retention"};

class Killer final : public RunObserver {
 public:
  Killer(std::string_view point, bool armed)
      : point_(point), armed_(armed), save_(point == "retention" ? 3 : 2) {}
  void reached(SavePoint point) override {
    if (point == SavePoint::staging) ++saves_;
    if (armed_ && saves_ == save_ && points[static_cast<std::size_t>(point)] == point_)
      ::raise(SIGKILL);
  }

  void turns_to(std::int64_t, const std::string&) override {}

 private:
  std::string_view point_;
  bool armed_;
  int save_;
  std::atomic<int> saves_ = 0;
};

}  // namespace
}  // namespace polymoe

int main(int argc, char** argv) {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (argc < 3 || rank == nullptr) {
    std::fputs("usage: under mpirun, killed_save POINT RANK ARGUMENT...\n", stderr);
    return 64;
  }
  polymoe::Killer killer(argv[1], std::string_view(rank) == argv[2]);
  return polymoe::run_program({argv + 3, argv + argc}, &killer);
}
