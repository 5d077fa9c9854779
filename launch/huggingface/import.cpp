// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <vector>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_huggingface.h"
#include "launch/huggingface/config.h"
#include "launch/huggingface/interchange.h"
#include "launch/huggingface/tensors.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/files/new_directory.h"
#include "runtime/files/safetensors.h"
#include "runtime/progress.h"
#include "runtime/tensor.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_config_bytes = std::int64_t{1} << 20;
constexpr std::int64_t max_tokenizer_bytes = std::int64_t{1} << 30;

/// Elements of one stored tensor.
struct StoredRange {
  SafetensorsModel::Source source;
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

bool has_shape(const SafetensorsFile::Entry& entry, const Shape& shape) {
  if (static_cast<int>(entry.extents.size()) != shape.rank()) return false;
  for (int i = 0; i < shape.rank(); ++i)
    if (entry.extents[static_cast<std::size_t>(i)] != shape[i]) return false;
  return true;
}

/// Where a model's files hold the tensors of a checkpoint.
class StoredTensors {
 public:
  /// Throws InputFileError when a tensor is missing, has another shape, or is none of the model's.
  StoredTensors(const fs::path& directory, const ModelConfig& model)
      : directory_(directory), files_(directory) {
    // Ends at the first tensor that is missing: what config.json says is bounded by what is there.
    for_each_huggingface_tensor(
        model, [&](const HuggingFaceTensor& tensor) { locate(tensor, model.moe.experts); });
    if (model.tied) used_.insert("lm_head.weight");  // a copy of the embedding, if it is there
    for (const auto& [name, source] : files_.tensors())
      if (!used_.contains(name) && !name.ends_with(".rotary_emb.inv_freq"))
        throw InputFileError(source.file->path().string(),
                             "holds tensor " + name + ", which the model of config.json has not");
  }

  std::int64_t count() const { return static_cast<std::int64_t>(ranges_.size()); }
  std::int64_t elements() const { return elements_; }

  /// Fills the piece's data.
  void read(const TensorPiece& piece) const {
    const std::int64_t end = piece.begin + piece.data.elements();
    const Tensor out = piece.data.view({piece.data.elements()});
    std::int64_t first = 0;  // of the range within the tensor
    for (const StoredRange& range : ranges_.at(piece.name)) {
      const std::int64_t from = std::max(piece.begin, first);
      const std::int64_t to = std::min(end, first + range.count);
      if (from < to)
        range.source.file->read(*range.source.entry, range.begin + from - first,
                                out.rows(from - piece.begin, to - piece.begin));
      first += range.count;
    }
  }

 private:
  void locate(const HuggingFaceTensor& tensor, std::int64_t experts) {
    std::vector<StoredRange>& ranges = ranges_[tensor.name];
    elements_ += tensor.shape.elements();
    if (!tensor.stacked.empty() && files_.find(tensor.parts.front()) == nullptr &&
        files_.find(tensor.stacked) != nullptr) {
      const Shape shape{experts, tensor.shape[0], tensor.shape[1]};
      const std::int64_t each = tensor.shape.elements();
      ranges.push_back({take(tensor.stacked, shape), tensor.expert * each, each});
      return;
    }
    for (const std::string& part : tensor.parts)
      ranges.push_back({take(part, tensor.part_shape()), 0, tensor.part_shape().elements()});
  }

  SafetensorsModel::Source take(const std::string& name, const Shape& shape) {
    const SafetensorsModel::Source* source = files_.find(name);
    if (source == nullptr)
      throw InputFileError(
          directory_.string(),
          fmt::format("holds no tensor {}, which the model of config.json has", name));
    if (!has_shape(*source->entry, shape))
      throw InputFileError(source->file->path().string(),
                           fmt::format("tensor {} is [{}], the model of config.json has {}", name,
                                       fmt::join(source->entry->extents, ", "), to_string(shape)));
    used_.insert(name);
    return *source;
  }

  fs::path directory_;
  SafetensorsModel files_;
  std::map<std::string, std::vector<StoredRange>> ranges_;  // by the checkpoint's name
  std::set<std::string> used_;
  std::int64_t elements_ = 0;
};

/// Whether two stored tensors hold the same values, of which one block is in memory at a time.
bool same_values(const SafetensorsModel::Source& a, const SafetensorsModel::Source& b) {
  constexpr std::int64_t block = 1 << 20;
  if (a.entry->extents != b.entry->extents) return false;
  const OwnedTensor left({block}, DType::f32, Device::cpu()),
      right({block}, DType::f32, Device::cpu());
  for (std::int64_t begin = 0; begin < a.entry->elements; begin += block) {
    const std::int64_t count = std::min(block, a.entry->elements - begin);
    a.file->read(*a.entry, begin, left->rows(0, count));
    b.file->read(*b.entry, begin, right->rows(0, count));
    if (!std::equal(left->data<float>(), left->data<float>() + count, right->data<float>()))
      return false;
  }
  return true;
}

/// config.json may tie the output projection to the embedding although the files hold one of its
/// own: that is the model, as transformers takes it too.
void untie_if_apart(const fs::path& from, ModelConfig& model, InterchangeReport& report) {
  if (!model.tied) return;
  const SafetensorsModel files(from);
  const auto* head = files.find("lm_head.weight");
  const auto* embedding = files.find("model.embed_tokens.weight");
  if (head == nullptr || embedding == nullptr || same_values(*head, *embedding)) return;
  model.tied = false;
  report.notes.push_back(
      "config.json says tie_word_embeddings, but lm_head.weight is not the embedding: they are "
      "kept apart (model.tied = false)");
}

/// What the files hold and a run does not.
void note_what_is_dropped(const fs::path& from, InterchangeReport& report) {
  const SafetensorsModel files(from);
  const auto frequencies = std::count_if(
      files.tensors().begin(), files.tensors().end(),
      [](const auto& tensor) { return tensor.first.ends_with(".rotary_emb.inv_freq"); });
  if (frequencies > 0)
    report.notes.push_back(fmt::format(
        "{} tensors rotary_emb.inv_freq are left out: they follow from rope_theta", frequencies));
  if (fs::exists(from / "generation_config.json"))
    report.notes.push_back("generation_config.json is left out: generate takes options");
}

Config read_config_json(const fs::path& path) {
  const Json json = parse_json(read_file(path, max_config_bytes), path.string());
  if (!json.is_object()) throw InputFileError(path.string(), "is no JSON object");
  Config config;
  config.model = model_of_huggingface_config(json, path.string());
  return config;
}

/// The configuration as reading it back resolves it.
Config resolved(Config config, const HuggingFaceImport& options) {
  config.parallel.expert = options.expert_parallel;
  config.train.global_batch = options.ranks;
  refuse_violations("layout", layout_violations(config, options.ranks));
  return parse_config(to_ini(config), "the imported model", {});
}

/// Takes over tokenizer.json where it is of a kind that is supported, else tokenizer.model.
void import_tokenizer(const fs::path& from, const fs::path& to, InterchangeReport& report) {
  const auto copy = [&](const char* name) {
    replace_file(to / name, read_file(from / name, max_tokenizer_bytes));
  };
  if (fs::exists(from / "tokenizer.json")) {
    try {
      load_tokenizer((from / "tokenizer.json").string());
      copy("tokenizer.json");
      const fs::path config = from / "tokenizer_config.json";
      if (fs::exists(config)) replace_file(to / config.filename(), read_huggingface_config(config));
      return;
    } catch (const InputFileError& error) {
      report.notes.push_back(fmt::format("the tokenizer is not taken over: {}", error.what()));
    }
  }
  if (fs::exists(from / "tokenizer.model"))
    copy("tokenizer.model");
  else if (fs::is_regular_file(from / "tokenizer") &&
           remembered_tokenizer(from))  // an export of ours that names a built-in one
    copy("tokenizer");
  else
    report.notes.push_back(
        "there is no tokenizer.json or tokenizer.model that could be taken over: text must be "
        "turned into tokens by the tokenizer that the model came with");
}

}  // namespace

InterchangeReport import_huggingface(const HuggingFaceImport& options) {
  const fs::path json = options.from / "config.json";
  InterchangeReport report;
  Config described = read_config_json(json);
  untie_if_apart(options.from, described.model, report);
  const StoredTensors tensors(options.from, described.model);
  const Config config = resolved(described, options);
  report.architecture = architecture_of(family_of(config.model));
  report.tensors = tensors.count();
  report.parameters = tensors.elements();
  note_what_is_dropped(options.from, report);
  Progress progress(options.progress,
                    {.what = "importing", .total = tensors.elements(), .unit = "parameters"});
  NewDirectory directory(options.to, "OUT");
  const fs::path& to = directory.partial();
  write_checkpoint(
      to / checkpoints_folder,
      {.step = 0,
       .tokens = 0,
       .ranks = options.ranks,
       .expert_parallel = options.expert_parallel,
       .config = to_ini(config),
       .state = TrainingState{.next_sample = 0, .moments = false}.to_text()},
      [&](int rank) {
        return checkpoint_pieces(
            config.model,
            {.rank = rank, .ranks = options.ranks, .expert_parallel = options.expert_parallel},
            false);
      },
      [&](const TensorPiece& piece) {
        tensors.read(piece);
        progress.advance(piece.data.elements());
      });
  replace_file(to / "config.ini", to_ini(config));
  import_tokenizer(options.from, to, report);
  directory.complete();
  report.checkpoint = options.to / checkpoints_folder / checkpoint_name(0);
  return report;
}

}  // namespace polymoe
