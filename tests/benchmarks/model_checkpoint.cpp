// SPDX-License-Identifier: Apache-2.0
// Writes the checkpoint of a model without training it: something to measure conversions by.
//
//   model_checkpoint CONFIG DIRECTORY
//
// Parameters alone, of one rank, in f32; values are pseudo-random in [-0.02, 0.02). Prints the
// checkpoint's path.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"

namespace polymoe {
namespace {

/// Cheap, and different for each element of each tensor.
void fill(const TensorPiece& piece) {
  std::uint64_t seed = 0;
  for (const char c : piece.name) seed = seed * 31 + static_cast<unsigned char>(c);
  float* values = piece.data.data<float>();
  for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
    std::uint64_t bits = (seed ^ static_cast<std::uint64_t>(piece.begin + i)) * 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 32)) * 0x9e3779b97f4a7c15;
    values[i] = (static_cast<float>(bits >> 40) * 0x1p-24F - 0.5F) * 0.04F;
  }
}

void write_model(const std::string& config_path, const std::string& directory) {
  const Config config = read_config(config_path, {});
  const CheckpointInfo info{.step = 0,
                            .tokens = 0,
                            .ranks = 1,
                            .expert_parallel = 1,
                            .config = to_ini(config),
                            .state = TrainingState{.next_sample = 0, .moments = false}.to_text()};
  const RankOfLayout place{.rank = 0, .ranks = 1, .expert_parallel = 1};
  write_checkpoint(
      directory, info, [&](int) { return checkpoint_pieces(config.model, place, false); }, fill);
  std::printf("%s/%s\n", directory.c_str(), checkpoint_name(info.step).c_str());
}

}  // namespace
}  // namespace polymoe

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: model_checkpoint CONFIG DIRECTORY\n", stderr);
    return 64;
  }
  try {
    polymoe::write_model(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_checkpoint: %s\n", error.what());
    return 70;
  }
}
