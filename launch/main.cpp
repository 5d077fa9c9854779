// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/program.h"

int main(int argc, char** argv) { return polymoe::run_program({argv + 1, argv + argc}); }
