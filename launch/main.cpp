// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/program.h"
#include "launch/machine/signals.h"

// The loader calls this before it initialises any library: what threads these start has the mask.
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)() = polymoe::block_signals;

int main(int argc, char** argv) {
  polymoe::start_signal_thread();
  return polymoe::run_program({argv + 1, argv + argc});
}
