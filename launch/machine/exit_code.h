// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/error.h"

namespace polymoe {

/// What the process answers to whoever started it. The numbers of 64 to 75 are those of sysexits.h.
enum ExitCode : int {
  exit_done = 0,
  exit_different = 1,       // what was compared differs, or something stands out
  exit_usage = 64,          // command line or configuration
  exit_input_file = 65,     // missing, damaged or foreign
  exit_internal = 70,       // anything unforeseen, and devices that fail
  exit_output_file = 74,    // output could not be written
  exit_communication = 75,  // a peer was lost, or the watchdog fired
  exit_preempted = 85,      // stopped by SIGUSR1; of a run, checkpoint committed
  exit_not_finite = 86,     // the loss or the gradient was not finite too often
  exit_hung_up = 129,       // stopped by SIGHUP, checkpoint committed
  exit_interrupted = 130,   // stopped by SIGINT, checkpoint committed
  exit_terminated = 143,    // stopped by SIGTERM, checkpoint committed
};

/// The exit code that stands for an error.
constexpr int exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      return exit_usage;
    case ErrorKind::input_file:
      return exit_input_file;
    case ErrorKind::output_file:
      return exit_output_file;
    case ErrorKind::communication:
      return exit_communication;
    case ErrorKind::not_finite:
      return exit_not_finite;
    case ErrorKind::device:
    case ErrorKind::unforeseen:
      break;
  }
  return exit_internal;
}
inline int exit_code_of(const std::exception& error) { return exit_code_of(kind_of(error)); }

}  // namespace polymoe
