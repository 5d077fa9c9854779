// SPDX-License-Identifier: Apache-2.0
#include "launch/config/option_table.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/router/router.h"
#include "launch/config/config.h"
#include "launch/config/option.h"
#include "launch/config/option_makers.h"
#include "launch/config/step_range.h"
#include "moe/language_model.h"
#include "moe/model_config.h"
#include "runtime/dtype.h"

namespace polymoe {
namespace {

using namespace option_makers;

#define FIELD(member)                                          \
  Member(                                                      \
      +[](Config & config) -> auto& { return config.member; }, \
      +[](const Config& config) -> auto& { return config.member; })

void add_model(std::vector<Option>& table) {
  std::vector<std::pair<std::string, ActivationKind>> activations;
  for (const ActivationKind kind : all_activations()) activations.emplace_back(name_of(kind), kind);
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(whole("model.layers", "[1, 65536]", FIELD(model.layers), "transformer blocks"));
  add(whole("model.hidden", "[2, 16777216]", FIELD(model.hidden), "width of the residual stream"));
  add(whole("model.heads", "[1, 65536]", FIELD(model.heads),
            "attention heads; hidden is a multiple of 2 * heads"));
  add(whole("model.kv_heads", "[0, 65536]", FIELD(model.kv_heads),
            "heads of keys and values, a divisor of heads; 0 = heads"));
  add(width("model.ffn", FIELD(model.ffn), FIELD(gated.ffn),
            "width of the dense feed-forward; 0 = 8/3 hidden rounded up to a multiple of 128, "
            "times 1.5 with a 2-matrix activation; `N gated` = N with a 3-matrix activation, 1.5 N "
            "with a 2-matrix one: as many parameters"));
  add(whole("model.vocab", "[2, 16777216]", FIELD(model.vocab), "token ids"));
  add(whole("model.context", "[1, 16777216]", FIELD(model.context), "tokens of a sequence"));
  add(choice<ActivationKind>("model.activation", activations, FIELD(model.activation.kind),
                             "of the dense feed-forward and of the experts"));
  add(whole("model.order", "[2, 4]", FIELD(model.activation.order),
            "highest power of a poly* activation"));
  add(flag("model.qk_norm", FIELD(model.qk_norm),
           "RMSNorm of the whole query and key vectors, before the split into heads"));
  add(flag("model.tied", FIELD(model.tied), "the output projection is the embedding"));
  add(real("model.norm_epsilon", "(0, 1]", FIELD(model.norm_epsilon), "of every RMSNorm"));
  add(real("model.rope_theta", "(0, inf)", FIELD(model.rope_theta), "base of rotary positions"));
  add(real("model.init_std", "[0, inf)", FIELD(model.init_std),
           "standard deviation of the initial weights"));
  add(real("model.init_truncation", "[0, inf)", FIELD(model.init_truncation),
           "initial weights lie within this many standard deviations; 0 = anywhere"));
}

void add_moe(std::vector<Option>& table) {
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(whole("moe.experts", "[0, 65536]", FIELD(model.moe.experts),
            "per layer, over all ranks, at most 1048576 in all layers; 0 = a dense model"));
  add(whole("moe.top_k", "[1, 65536]", FIELD(model.moe.top_k),
            "experts per token, at most moe.experts"));
  add(width("moe.expert_ffn", FIELD(model.moe.expert_ffn), FIELD(gated.expert_ffn),
            "width of one expert; 0 = hidden / 2, times 1.5 with a 2-matrix activation; `N gated` "
            "as for model.ffn"));
  add(whole("moe.shared_experts", "[0, 65536]", FIELD(model.moe.shared_experts),
            "experts that see every token, beside the routed ones"));
  add(layer_list("moe.dense_layers", FIELD(model.moe.dense_layers),
                 "layers that keep the dense feed-forward"));
  add(choice<RouterScores>("moe.scores",
                           {{"softmax", RouterScores::softmax}, {"sigmoid", RouterScores::sigmoid}},
                           FIELD(model.moe.router.scores), "the router's scores"));
  add(flag("moe.normalize", FIELD(model.moe.router.normalize), "a token's top-k weights sum to 1"));
  add(choice<bool>("moe.coefficients", {{"layer", false}, {"expert", true}},
                   FIELD(model.moe.coefficients_per_expert),
                   "one set of activation coefficients per layer or per expert"));
  add(real("moe.balance_loss", "[0, inf)", FIELD(model.moe.balance_loss),
           "coefficient of the load-balance loss"));
  add(choice<BalanceScope>(
      "moe.balance_scope",
      {{"sequence", BalanceScope::sequence},
       {"rank", BalanceScope::rank},
       {"global", BalanceScope::global}},
      FIELD(model.moe.balance_scope),
      "tokens whose load is balanced: each sequence, a rank's micro-batch, or the micro-batches of "
      "all ranks"));
  add(real("moe.z_loss", "[0, inf)", FIELD(model.moe.z_loss), "coefficient of the router z-loss"));
  add(real("moe.bias_rate", "[0, inf)", FIELD(model.moe.bias_rate),
           "step of the per-expert bias that balances without a loss; 0 = no bias"));
  add(real("moe.capacity_factor", "[0, inf)", FIELD(model.moe.capacity_factor),
           "slots per expert and sequence over the mean load; 0 = no token is dropped"));
  add(choice<DropPolicy>(
      "moe.drop", {{"position", DropPolicy::position}, {"probability", DropPolicy::probability}},
      FIELD(model.moe.drop), "who keeps a slot of a full expert: the earlier or the likelier"));
  add(real("moe.row_budget", "[1, inf)", FIELD(model.moe.row_budget),
           "with expert parallelism: rows that a rank's experts work off together, over an even "
           "share; more are worked off in further rounds, and memory is planned for this many"));
  add(whole("moe.report_every", "[0, inf)", FIELD(expert_report_every),
            "steps between rows of RUN/experts.jsonl: tokens per layer and expert; 0 = never"));
}

void add_data_and_train(std::vector<Option>& table) {
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(files("data.train", FIELD(data.train),
            "token files and their shares; relative to the working directory"));
  add(files("data.valid", FIELD(data.valid), "token files of validation; empty = none"));
  add(choice<WeightKind>(
      "data.weights",
      {{"auto", WeightKind::automatic}, {"share", WeightKind::share}, {"size", WeightKind::size}},
      FIELD(data.weights),
      "what the weights are: shares of the samples, or factors of the files' "
      "sizes; auto = share where one is given, else size"));
  add(stages("data.stages", FIELD(data.stages),
             "mixtures that follow data.train, each from a number of tokens on"));
  add(choice<StageChange>("data.stage_change",
                          {{"step", StageChange::step}, {"linear", StageChange::linear}},
                          FIELD(data.stage_change),
                          "a stage holds until the next one, or moves towards it all the time"));
  add(epochs("data.max_epochs", FIELD(data.max_epochs),
             "how often a file is seen at most; the others then take its share"));
  add(choice<Documents>("data.documents",
                        {{"ignore", Documents::ignore}, {"mask", Documents::mask}},
                        FIELD(data.documents),
                        "mask: attention and positions do not cross the end of a document, whose "
                        "last token predicts nothing"));
  add(choice<Packing>("data.packing",
                      {{"stream", Packing::stream}, {"documents", Packing::documents}},
                      FIELD(data.packing),
                      "windows are cut from the file one behind the other, or whole documents are "
                      "packed into them, with padding behind"));
  add(whole("data.end_of_text", "[-1, 2147483647]", FIELD(data.end_of_text),
            "id that ends documents in files whose index names none; -1 = as the description "
            "beside the file says"));
  add(choice<int>("data.token_bytes", {{"2", 2}, {"4", 4}}, FIELD(data.token_bytes),
                  "bytes per token of raw .npy files"));
  add(choice<bool>(
      "data.changed", {{"refuse", false}, {"accept", true}}, FIELD(data.accept_changed),
      "whether a resume goes on where a file or the tokenizer is not the checkpoint's"));
  add(whole("train.steps", "[0, inf)", FIELD(train.steps), "optimizer steps of the whole run"));
  add(whole("train.stop_after", "[0, inf)", FIELD(train.stop_after),
            "steps of this invocation, then a checkpoint and the end; 0 = up to train.steps"));
  add(whole(
      "train.global_batch", "[1, 16777216]", FIELD(train.global_batch),
      "sequences per step over all ranks; a multiple of micro_batch * ranks where that is given"));
  add(whole(
      "train.micro_batch", "[0, 16777216]", FIELD(train.micro_batch),
      "sequences per rank and pass; 0 = as many as the batch, the ranks and the memory allow"));
  add(whole("train.seed", "[0, inf)", FIELD(train.seed), "of initial weights and sample order"));
  add(whole("train.valid_every", "[0, inf)", FIELD(train.valid_every),
            "steps between validations; 0 = never"));
  add(whole("train.valid_batches", "[0, inf)", FIELD(train.valid_batches),
            "global batches of a validation; 0 = the whole files"));
  add(choice<Recompute>("train.recompute",
                        {{"none", Recompute::none},
                         {"activation", Recompute::activation},
                         {"block", Recompute::block}},
                        FIELD(train.recompute),
                        "what the backward pass computes again instead of keeping: the "
                        "feed-forwards' pre-activations, or whole blocks"));
  add(choice<Precision>(
      "train.precision",
      {{"auto", Precision::automatic}, {"f32", Precision::f32}, {"bf16", Precision::bf16}},
      FIELD(train.precision), "of parameters and activations; auto = bf16 on GPUs, f32 on CPUs"));
  add(whole("train.max_skipped", "[1, inf)", FIELD(train.max_skipped),
            "steps in a row whose loss or gradient is not finite: each is skipped, the last one "
            "ends the run with code 86"));
  add(choice<SpikeAction>(
      "train.spike",
      {{"off", SpikeAction::off}, {"skip", SpikeAction::skip}, {"clip", SpikeAction::clip}},
      FIELD(train.spike),
      "what a step does whose gradient norm is far above the last ones: nothing else, it is "
      "skipped, or its gradient is cut to their mean"));
  add(real("train.spike_z", "(0, inf)", FIELD(train.spike_z),
           "standard deviations above their mean from which on a gradient norm is a spike"));
  add(whole("train.spike_window", "[2, 100000]", FIELD(train.spike_window),
            "gradient norms that one is compared with; before there are as many none is a spike"));
  add(whole("train.check_replicas", "[0, inf)", FIELD(train.check_replicas),
            "steps between comparisons of the parameters that several ranks hold; a difference "
            "ends the run with code 70; 0 = never"));
}

void add_eval(std::vector<Option>& table) {
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(paths("eval.tasks", FIELD(eval.tasks),
            "request files that the model is scored on, see polymoe eval --tasks; empty = none"));
  add(whole("eval.every", "[0, inf)", FIELD(eval.every),
            "steps between scorings of eval.tasks; 0 = after the last step alone"));
  add(text(
      "eval.tokenizer", FIELD(eval.tokenizer),
      "of the tasks: a tokenizer.json, a sentencepiece model or `bytes`; empty = the one beside "
      "data.train"));
}

void add_optimizer(std::vector<Option>& table) {
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(real("optimizer.lr", "[0, inf)", FIELD(optimizer.lr), "highest learning rate"));
  add(real("optimizer.min_lr", "[0, inf)", FIELD(optimizer.min_lr),
           "learning rate at the end, at most lr"));
  add(duration("optimizer.warmup", FIELD(optimizer.warmup), "length of the linear warm-up"));
  add(duration("optimizer.decay", FIELD(optimizer.decay),
               "length of the last, falling part of the schedule wsd"));
  add(choice<Schedule>("optimizer.schedule",
                       {{"cosine", Schedule::cosine},
                        {"linear", Schedule::linear},
                        {"constant", Schedule::constant},
                        {"wsd", Schedule::wsd}},
                       FIELD(optimizer.schedule), "after the warm-up; wsd = stable, then decay"));
  add(real("optimizer.beta1", "[0, 1)", FIELD(optimizer.adamw.beta1), "of the first moment"));
  add(real("optimizer.beta2", "[0, 1)", FIELD(optimizer.adamw.beta2), "of the second moment"));
  add(real("optimizer.epsilon", "(0, inf)", FIELD(optimizer.adamw.epsilon), "of AdamW"));
  add(real("optimizer.weight_decay", "[0, inf)", FIELD(optimizer.adamw.weight_decay),
           "decoupled; not on activation coefficients"));
  add(choice<DType>("optimizer.moment_dtype", {{"f32", DType::f32}, {"bf16", DType::bf16}},
                    FIELD(optimizer.adamw.moment_dtype),
                    "of both moments; bf16 takes half the memory"));
  add(choice<DType>("optimizer.gradient_dtype", {{"f32", DType::f32}, {"bf16", DType::bf16}},
                    FIELD(optimizer.gradient_dtype),
                    "of weights' gradients; bf16, where train.precision is, takes half the memory "
                    "and is rounded at every pass"));
  add(real("optimizer.clip", "[0, inf)", FIELD(optimizer.clip),
           "largest global gradient norm; 0 = no clipping"));
}

void add_run(std::vector<Option>& table) {
  const auto add = [&](Option option) { table.push_back(std::move(option)); };
  add(whole("parallel.expert", "[1, 65536]", FIELD(parallel.expert),
            "ranks that share out the experts; divides the ranks and moe.experts"));
  add(whole("parallel.expert_node", "[0, 65536]", FIELD(parallel.expert_node),
            "ranks of an expert group in a node, where a token is to cross to a node once and be "
            "passed on there; divides parallel.expert; 1 = straight to each rank, 0 = as many as "
            "share a node"));
  add(whole("checkpoint.every", "[0, inf)", FIELD(checkpoint.every),
            "steps between checkpoints; 0 = by time alone, and at the end"));
  add(real(
      "checkpoint.every_seconds", "[0, inf)", FIELD(checkpoint.every_seconds),
      "most seconds of work without a checkpoint, beside checkpoint.every; 0 = by steps alone"));
  add(whole("checkpoint.keep", "[0, inf)", FIELD(checkpoint.keep),
            "newest checkpoints kept; 0 = all"));
  Option resume = text("checkpoint.resume", FIELD(checkpoint.resume),
                       "auto = the newest valid checkpoint of the run, if there is one");
  resume.allowed = "auto, none or the PATH of a checkpoint, without '#'";
  const auto read_resume = resume.read;
  resume.read = [read_resume](const std::string& value, Config& config) {
    return !value.empty() && read_resume(value, config);
  };
  add(std::move(resume));
  add(flag("checkpoint.background", FIELD(checkpoint.background),
           "train on while a checkpoint is written, from a copy in host memory; with "
           "checkpoint.every = 0 there is none, and training waits"));
  add(choice<SaveFailure>(
      "checkpoint.on_error", {{"stop", SaveFailure::stop}, {"continue", SaveFailure::proceed}},
      FIELD(checkpoint.on_error),
      "what a checkpoint that cannot be written does; the last one of a run always stops it"));
  add(text("run.dir", FIELD(run.dir), "directory of checkpoints, metrics and configuration"));
  add(choice<std::string>("run.device", {{"auto", "auto"}, {"cpu", "cpu"}, {"cuda", "cuda"}},
                          FIELD(run.device), "auto = cuda where there is one, else cpu"));
  add(flag("run.share_gpus", FIELD(run.share_gpus),
           "several ranks may work on one GPU: slow, for tests of layouts"));
  add(real(
      "run.timeout", "[1, 1e6]", FIELD(run.timeout),
      "seconds that a rank waits for its peers in one operation, before all end with code 75"));
  add(text(
      "run.alarm", FIELD(run.alarm),
      "a shell command for when the run stands still: it finds what is known in POLYMOE_ALARM and "
      "run.dir in POLYMOE_RUN"));
  add(whole("run.threads", "[0, 4096]", FIELD(run.threads),
            "per rank; 0 = the node's cores shared out among its ranks"));
  add(whole("run.report_ranks", "[0, inf)", FIELD(run.report_ranks),
            "steps between reports of what ranks wait for, and how their machines do; 0 = never"));
  Option trace = text("run.trace", FIELD(run.trace),
                      "steps of which a trace of all ranks is written into run.dir, for Perfetto");
  trace.allowed = StepRange::allowed;
  trace.read = [](const std::string& value, Config& config) {
    config.run.trace = value;
    return value.empty() || StepRange::parse(value).has_value();
  };
  add(std::move(trace));
}

#undef FIELD

}  // namespace

const std::vector<Option>& options() {
  static const std::vector<Option> table = [] {
    std::vector<Option> all;
    add_model(all);
    add_moe(all);
    add_data_and_train(all);
    add_eval(all);
    add_optimizer(all);
    add_run(all);
    return all;
  }();
  return table;
}

const Option* find_option(const std::string& key) {
  static const auto by_key = [] {
    std::map<std::string, const Option*> map;
    for (const Option& option : options()) map.emplace(option.key, &option);
    return map;
  }();
  const auto found = by_key.find(key);
  return found == by_key.end() ? nullptr : found->second;
}

}  // namespace polymoe
