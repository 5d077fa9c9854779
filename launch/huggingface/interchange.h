// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/safetensors.h"
#include "runtime/progress.h"

namespace polymoe {

struct HuggingFaceExport {
  std::filesystem::path from;  // a checkpoint or a run directory
  std::filesystem::path to;    // new, or empty
  SafetensorsDType dtype = SafetensorsDType::f32;
  std::int64_t max_file_bytes = 5'000'000'000;
  ProgressOutput progress = {};
};

struct HuggingFaceImport {
  std::filesystem::path from;  // a directory with config.json and safetensors
  std::filesystem::path to;    // new, or empty
  int ranks = 1;               // of the layout to write
  int expert_parallel = 1;
  ProgressOutput progress = {};
};

/// What was written, for the user.
struct InterchangeReport {
  std::filesystem::path checkpoint;  // read or written
  std::string architecture;          // "OlmoeForCausalLM"
  std::int64_t tensors = 0;          // of the checkpoint
  std::int64_t parameters = 0;
  std::vector<std::string> notes;  // what the user should know, a line each
};

/// Writes the model of a checkpoint so that transformers loads it: config.json, safetensors files,
/// the tokenizer where the run has one, and the model's code where transformers has no such
/// model. One tensor is in memory at a time. `to` appears when it is complete.
/// Throws InputFileError, OutputFileError, InvalidArgument.
InterchangeReport export_huggingface(const HuggingFaceExport& options);

/// Makes a run directory of a model that transformers saved (OLMoE or Llama; F32, F16 or BF16; in
/// one file or several) or that export_huggingface wrote: checkpoints/step-00000000 with the
/// parameters and no optimizer state, config.ini, tokenizer.json or tokenizer.model. One piece of a
/// tensor is in memory at a time. `to` appears when it is complete. Throws InputFileError naming
/// what is missing, left over or of another shape; OutputFileError; InvalidArgument.
InterchangeReport import_huggingface(const HuggingFaceImport& options);

/// A file that an export carries beside the weights.
struct HuggingFaceSource {
  const char* name;  // "modeling_polymoe.py"
  const char* text;
};
/// The code with which transformers computes PolymoeForCausalLM.
const std::vector<HuggingFaceSource>& huggingface_sources();

}  // namespace polymoe
