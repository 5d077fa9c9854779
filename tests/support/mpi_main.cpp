// SPDX-License-Identifier: Apache-2.0
// main() of a test program that runs on several MPI ranks: rank 0 reports, the others print only
// what fails, and every rank returns the worst result.
#include <gtest/gtest.h>

#include <exception>
#include <iostream>
#include <sstream>

#include "tests/support/mpi_world.h"

namespace polymoe {
namespace {

MpiEnvironment* environment = nullptr;

class FailurePrinter final : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::ostringstream line;
    line << "rank " << environment->rank() << ": " << result.file_name() << ":"
         << result.line_number() << ": " << result.message() << "\n";
    std::cerr << line.str();
  }
};

int run_tests() {
  if (environment->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  std::int64_t result = RUN_ALL_TESTS();
  auto world = environment->make_world();
  Stream stream(Device::cpu());
  world->all_reduce({&result, {1}, DType::i64, Device::cpu()}, Reduction::max, stream);
  world->shutdown();
  return static_cast<int>(result);
}

}  // namespace

const MpiEnvironment& mpi_environment() { return *environment; }

}  // namespace polymoe

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // An exception must end all ranks: the others wait for this one.
  testing::FLAGS_gtest_catch_exceptions = false;
  polymoe::MpiEnvironment environment;
  polymoe::environment = &environment;
  try {
    const int result = polymoe::run_tests();
    environment.finalize();
    return result;
  } catch (const std::exception& error) {
    std::cerr << "rank " << environment.rank() << ": " << error.what() << std::endl;
    environment.abort(1);
  }
}
