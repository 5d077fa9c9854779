// SPDX-License-Identifier: Apache-2.0
// The entry points of libFuzzer; the target is POLYMOE_FUZZ_TARGET. `--seeds=DIR` writes its seeds
// there and ends.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "tests/fuzz/targets.h"
#include "tests/support/temporary_directory.h"

namespace {
polymoe::fuzz::Target target = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  using namespace polymoe;
  const std::string name = POLYMOE_FUZZ_TARGET;
  target = fuzz::find_target(name);
  for (int i = 1; i < *count; ++i) {
    const std::string_view argument = (*arguments)[i];
    if (!argument.starts_with("--seeds=")) continue;
    const std::filesystem::path directory = argument.substr(8);
    std::filesystem::create_directories(directory);
    int number = 0;
    for (const std::string& seed : fuzz::seeds(name))
      test::write_bytes(directory / ("seed-" + std::to_string(number++)), seed);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  target({reinterpret_cast<const char*>(data), size});
  return 0;
}
