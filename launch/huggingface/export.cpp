// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_huggingface.h"
#include "launch/data/tokenizer_sentencepiece.h"
#include "launch/huggingface/config.h"
#include "launch/huggingface/interchange.h"
#include "launch/huggingface/tensors.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/files/new_directory.h"
#include "runtime/files/safetensors.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_tokenizer_bytes = std::int64_t{1} << 30;

std::vector<SafetensorsWriter::Plan> plan_of(const ModelConfig& model) {
  std::vector<SafetensorsWriter::Plan> plan;
  for_each_huggingface_tensor(model, [&](const HuggingFaceTensor& tensor) {
    for (const std::string& part : tensor.parts) plan.push_back({part, tensor.part_shape()});
  });
  return plan;
}

void write_tensors(const CheckpointReader& reader, const ModelConfig& model,
                   SafetensorsWriter& writer, const ProgressOutput& output,
                   InterchangeReport& report) {
  std::int64_t parameters = 0;
  for_each_huggingface_tensor(
      model, [&](const HuggingFaceTensor& tensor) { parameters += tensor.shape.elements(); });
  Progress progress(output, {.what = "exporting", .total = parameters, .unit = "parameters"});
  for_each_huggingface_tensor(model, [&](const HuggingFaceTensor& tensor) {
    const OwnedTensor values(tensor.shape, DType::f32, Device::cpu());
    reader.read({{.name = tensor.name, .shape = tensor.shape, .begin = 0, .data = *values}});
    const auto parts = static_cast<std::int64_t>(tensor.parts.size());
    const std::int64_t rows = tensor.shape[0] / parts;
    for (std::int64_t i = 0; i < parts; ++i)
      writer.append(tensor.parts[static_cast<std::size_t>(i)],
                    values->rows(i * rows, (i + 1) * rows));
    ++report.tensors;
    report.parameters += tensor.shape.elements();
    progress.advance(tensor.shape.elements());
  });
}

/// How transformers' LlamaTokenizer encodes by a model of byte pairs as sentencepiece does.
Json tokenizer_config(const SentencepieceTraits& traits, std::int64_t context) {
  Json config = Json::object();
  config.set("tokenizer_class", "LlamaTokenizer")
      .set("legacy", false)
      .set("add_prefix_space", traits.prefix_blank)
      .set("add_bos_token", false)
      .set("add_eos_token", false)
      .set("clean_up_tokenization_spaces", false)
      .set("model_max_length", context);
  const auto piece = [&](const char* key, const std::string& text) {
    config.set(key, text.empty() ? Json() : Json(text));
  };
  piece("bos_token", traits.begin);
  piece("eos_token", traits.end);
  piece("unk_token", traits.unknown);
  return config;
}

/// A tokenizer.json and its configuration; where the run has none, one by which transformers loads
/// the file as it is.
void export_tokenizer_json(const std::string& name, const fs::path& to, std::int64_t context) {
  replace_file(to / "tokenizer.json", read_file(name, max_tokenizer_bytes));
  const std::string config = huggingface_config_beside(name);
  const fs::path copy = to / "tokenizer_config.json";
  if (fs::exists(config)) {
    replace_file(copy, read_huggingface_config(config));
    return;
  }
  Json written = Json::object();
  written.set("tokenizer_class", "PreTrainedTokenizerFast")
      .set("eos_token", huggingface_end_token(name))
      .set("clean_up_tokenization_spaces", false)
      .set("model_max_length", context);
  replace_file(copy, written.dump_indented());
}

/// Copies the run's tokenizer; the id that ends a document, where there is a tokenizer.
std::optional<std::int64_t> export_tokenizer(const fs::path& from, const fs::path& to,
                                             std::int64_t context, InterchangeReport& report) {
  std::string name;
  try {
    name = tokenizer_name("", from);
  } catch (const InvalidArgument&) {
    report.notes.push_back("the run remembers no tokenizer: none is exported");
    return std::nullopt;
  }
  const fs::path model(name);
  if (model.filename() == "tokenizer.model") {
    replace_file(to / "tokenizer.model", read_file(model, max_tokenizer_bytes));
    const SentencepieceTraits traits = sentencepiece_traits(name);
    if (traits.byte_pairs)
      replace_file(to / "tokenizer_config.json", tokenizer_config(traits, context).dump_indented());
    else
      report.notes.push_back(
          "tokenizer.model is not of byte pairs: encode by sentencepiece itself");
  } else if (model.filename() == "tokenizer.json") {
    export_tokenizer_json(name, to, context);
  } else {
    // By this an import knows it again.
    replace_file(to / "tokenizer", name + "\n");
    report.notes.push_back("the run's tokenizer is '" + name +
                           "', which transformers does not have: only its name is exported");
  }
  return load_tokenizer(name)->end_of_document();
}

}  // namespace

InterchangeReport export_huggingface(const HuggingFaceExport& options) {
  InterchangeReport report;
  report.checkpoint = resolve_checkpoint(options.from, report.notes);
  const CheckpointReader reader(report.checkpoint);
  const ModelConfig model =
      parse_config(reader.info().config, report.checkpoint.string(), {}).model;
  const HuggingFaceFamily family = family_of(model);
  report.architecture = architecture_of(family);
  if (model.moe.experts > 0 && model.moe.capacity_factor > 0.0)
    report.notes.push_back(fmt::format(
        "moe.capacity_factor = {}: transformers computes the model without dropping tokens",
        model.moe.capacity_factor));

  NewDirectory directory(options.to, "OUT");
  const fs::path& to = directory.partial();
  const bool bf16 = options.dtype == SafetensorsDType::bf16;
  const HuggingFaceConfigOptions config{
      .dtype = bf16 ? "bfloat16" : "float32",
      .end_of_document = export_tokenizer(report.checkpoint, to, model.context, report)};
  replace_file(to / "config.json", huggingface_config(model, config).dump_indented());
  if (family == HuggingFaceFamily::polymoe)
    for (const HuggingFaceSource& source : huggingface_sources())
      replace_file(to / source.name, source.text);
  SafetensorsWriter writer(to, plan_of(model),
                           {.dtype = options.dtype, .max_file_bytes = options.max_file_bytes});
  write_tensors(reader, model, writer, options.progress, report);
  writer.finish();
  directory.complete();
  return report;
}

}  // namespace polymoe
