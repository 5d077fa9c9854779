// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moe/language_model.h"
#include "moe/model_config.h"
#include "parallel/parameters/sharded_optimizer.h"

namespace polymoe {

/// A token file and how much of the samples comes from it.
struct WeightedFile {
  std::string path;
  std::optional<double> weight;  // relative, > 0; see DataConfig::weights
};

/// What the weights of a list of files are.
enum class WeightKind : std::uint8_t {
  automatic,  // `share` where a file of the list has a weight, else `size`
  share,      // shares of the samples; a file without a weight has 1
  size,       // factors of the files' sizes; a file without a weight has 1
};

/// Another mixture from a number of tokens on.
struct DataStage {
  std::int64_t tokens = 0;  // predicted before it
  std::vector<WeightedFile> files;
};

/// How one stage's mixture becomes the next one's.
enum class StageChange : std::uint8_t { step, linear };

/// Whether attention, positions and targets keep to documents.
enum class Documents : std::uint8_t { ignore, mask };
/// What windows are: cut one behind the other, or filled with whole documents.
enum class Packing : std::uint8_t { stream, documents };

struct DataConfig {
  std::vector<WeightedFile> train;  // "PATH[:WEIGHT] ..." in the file
  std::vector<WeightedFile> valid;  // empty = no validation
  WeightKind weights = WeightKind::automatic;
  std::vector<DataStage> stages;  // "TOKENS PATH[:WEIGHT] ...; TOKENS ..." behind `train`
  StageChange stage_change = StageChange::step;
  std::vector<WeightedFile> max_epochs;  // "PATH:EPOCHS ..."
  Documents documents = Documents::ignore;
  Packing packing = Packing::stream;
  std::int64_t end_of_text = -1;  // ends documents where no index says it; -1 = not given
  int token_bytes = 2;            // of raw .npy files: 2 or 4
  bool accept_changed = false;    // go on though a file is not the one of the checkpoint

  /// Whether batches say where documents begin.
  bool keeps_documents() const {
    return documents == Documents::mask || packing == Packing::documents;
  }
};

/// What parameters and activations are held in; optimizer state and sums are f32 in either.
enum class Precision : std::uint8_t { automatic, f32, bf16 };

/// What is done about a gradient norm far above the last ones.
enum class SpikeAction : std::uint8_t { off, skip, clip };

struct TrainConfig {
  std::int64_t steps = 0;
  std::int64_t stop_after = 0;    // end this invocation after that many of its steps; 0 = never
  std::int64_t global_batch = 8;  // sequences per step, over all ranks
  std::int64_t micro_batch = 0;   // sequences per rank and pass; 0 = automatic
  // Most sequences of an automatic one, by memory: no key, see choose_micro_batch. 0 = not found.
  std::int64_t micro_batch_limit = 0;
  std::uint64_t seed = 0;
  std::int64_t valid_every = 0;    // steps; 0 = never
  std::int64_t valid_batches = 0;  // global batches of validation; 0 = the whole files
  Recompute recompute = Recompute::none;
  Precision precision = Precision::automatic;  // bf16 on GPUs, f32 on CPUs
  std::int64_t max_skipped = 10;  // steps in a row that are not finite before the run ends
  SpikeAction spike = SpikeAction::off;
  double spike_z = 6.0;             // standard deviations above the mean
  std::int64_t spike_window = 100;  // steps
  std::int64_t check_replicas = 0;  // steps; 0 = never
};

enum class Schedule : std::uint8_t { cosine, linear, constant, wsd };

struct OptimizerConfig {
  double lr = 4e-4;
  double min_lr = 4e-5;
  std::string warmup = "0";   // "100" steps or "620Mtokens": see schedule.h
  std::string decay = "20%";  // length of wsd's last part, likewise, or a share of train.steps
  Schedule schedule = Schedule::cosine;
  AdamWOptions adamw;                 // beta1, beta2, epsilon, weight_decay, moment_dtype
  DType gradient_dtype = DType::f32;  // f32, or bf16 beside bf16 weights
  double clip = 1.0;                  // global norm; 0 = none
};

/// Scores on tasks within a run.
struct EvalConfig {
  std::vector<std::string> tasks;  // request files; empty = none
  std::int64_t every = 0;          // steps; 0 = after the last one alone
  std::string tokenizer;           // as load_tokenizer takes it; empty = the one of data.train
};

struct ParallelConfig {
  int expert = 1;       // expert-parallel size; divides the ranks and the experts
  int expert_node = 1;  // its ranks in a node, by which rows go; 0 = as many as there are
};

/// What a checkpoint that cannot be written does to the run.
enum class SaveFailure : std::uint8_t { stop, proceed };

struct CheckpointConfig {
  std::int64_t every = 0;       // steps; 0 = not by steps
  double every_seconds = 1800;  // since the one before; 0 = not by time
  std::int64_t keep = 2;        // newest ones kept; 0 = all
  std::string resume = "auto";  // auto | none | PATH
  bool background = true;       // training goes on while a checkpoint is written
  SaveFailure on_error = SaveFailure::stop;
};

struct RunConfig {
  std::string dir;                  // of checkpoints, metrics, configuration
  std::string device = "auto";      // auto | cpu | cuda
  bool share_gpus = false;          // several ranks may work on one GPU
  std::string alarm;                // a command for a run that stands still
  double timeout = 600.0;           // seconds that a rank waits for its peers
  int threads = 0;                  // per rank; 0 = the node's cores shared by its ranks
  std::int64_t report_ranks = 100;  // steps between reports of what ranks wait for; 0 = never
  std::string trace;                // "FIRST-LAST" steps that are traced; empty = none
};

/// Widths that were given as "256 gated": as of a gated feed-forward, whose three matrices have as
/// many parameters as two that are half as wide again. Reading resolves them.
struct GatedWidths {
  bool ffn = false;
  bool expert_ffn = false;
};

/// Everything a run is told. Sections and keys of the INI file are the members' names.
struct Config {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  RunConfig run;
  EvalConfig eval;
  GatedWidths gated;                       // no section
  std::int64_t expert_report_every = 100;  // steps between rows of experts.jsonl: moe.report_every
};

/// Defaults < file < overrides ("--section.key=value"). An empty path means no file.
/// Throws InvalidArgument listing at once every unknown key (with the nearest known one),
/// duplicate, unreadable value and value out of range; InputFileError when the file cannot be read.
Config read_config(const std::string& path, const std::vector<std::string>& overrides);

/// Reads a configuration from INI text, e.g. of a checkpoint; `origin` names it in errors.
Config parse_config(const std::string& text, const std::string& origin,
                    const std::vector<std::string>& overrides);

/// Every key as INI text; parse_config gives a configuration that was read back. Reading resolves
/// the automatic and the gated widths (model.kv_heads, model.ffn, moe.expert_ffn), so the text
/// holds them.
std::string to_ini(const Config& config);

/// What keys, their ranges and each other refuse in a model that was not read from a configuration:
/// one line per violation. Empty if all is well.
std::vector<std::string> model_violations(const ModelConfig& model);

/// Why `ranks` ranks cannot share out the work: one line per violation. Empty if they can.
std::vector<std::string> layout_violations(const Config& config, int ranks);

/// The same, and what a training run must be told: steps, data, directory.
std::vector<std::string> training_violations(const Config& config, int ranks);

/// The fields of [model] and [moe] in which two configurations describe different models: "key: A
/// here, B there". Empty if a checkpoint of one fits the other.
std::vector<std::string> model_differences(const Config& here, const Config& there);

}  // namespace polymoe
