// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "parallel/communication/mpi/environment.h"

namespace polymoe {

/// The MPI of a test program that runs under mpirun; the tests run in step on all ranks.
const MpiEnvironment& mpi_environment();

}  // namespace polymoe
