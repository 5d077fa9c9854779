// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/device_choice.h"

#include <fmt/core.h>

#include <string>

#include "launch/config/config.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"

namespace polymoe {

Device device_of_rank(const RunConfig& run, const NodeRank& node, int gpus,
                      const std::string& unavailable_reason) {
  if (run.device == "cpu" || (run.device == "auto" && gpus == 0)) return Device::cpu();
  if (gpus == 0)
    throw InvalidArgument(fmt::format("run.device = {}: {}; must be cpu or auto here", run.device,
                                      unavailable_reason));
  if (node.ranks > gpus && !run.share_gpus)
    throw InvalidArgument(
        fmt::format("run.device = {}: {} ranks on this node, but {} GPU{}; start fewer ranks, or "
                    "set run.share_gpus = true, or run.device = cpu",
                    run.device, node.ranks, gpus, gpus == 1 ? "" : "s"));
  return Device::cuda(node.rank % gpus);
}

Device choose_device(const RunConfig& run, const NodeRank& node) {
  if (run.device == "cpu") return Device::cpu();
  const int gpus = cuda::device_count();
  return device_of_rank(run, node, gpus, gpus == 0 ? cuda::unavailable_reason() : std::string());
}

int device_sharers(Device device, const NodeRank& node) {
  if (device.type != DeviceType::cuda) return 1;
  const int gpus = cuda::device_count();
  int sharers = 0;
  for (int rank = node.rank % gpus; rank < node.ranks; rank += gpus) ++sharers;
  return sharers;
}

DeviceType planned_backend(const RunConfig& run) {
  const bool gpu = run.device == "cuda" || (run.device == "auto" && cuda::device_count() > 0);
  return gpu ? DeviceType::cuda : DeviceType::cpu;
}

DType compute_dtype(Precision precision, DeviceType backend) {
  if (backend == DeviceType::cuda) return precision == Precision::f32 ? DType::f32 : DType::bf16;
  if (precision == Precision::bf16)
    throw InvalidArgument(
        "train.precision = bf16: is for GPUs; must be f32 or auto with run.device = cpu");
  return DType::f32;
}

DType gradient_dtype(const Config& config, DeviceType backend) {
  const DType gradients = config.optimizer.gradient_dtype;
  if (gradients == DType::bf16 && compute_dtype(config.train.precision, backend) != DType::bf16)
    throw InvalidArgument(
        "optimizer.gradient_dtype = bf16: is for train.precision = bf16, on GPUs; must be f32 "
        "with " +
        std::string(backend == DeviceType::cuda ? "train.precision = f32" : "run.device = cpu"));
  return gradients;
}

}  // namespace polymoe
