// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/commands/named_inputs.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/config/values.h"
#include "launch/data/document_ends.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "launch/evaluation/task_file.h"
#include "launch/evaluation/task_run.h"
#include "launch/evaluation/task_scores.h"
#include "launch/inference/answering_model.h"
#include "launch/inference/saved_model.h"
#include "launch/machine/exit_code.h"
#include "launch/step/evaluation.h"
#include "parallel/communication/agreement.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/files/named_output.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

struct TokensToEvaluate {
  std::string path;
  DataConfig data;               // how it is read
  std::int64_t max_windows = 0;  // 0 = all
};

/// On a CPU as in training, so that a run's validations are repeated to the bit.
std::int64_t windows_per_pass(SavedModel& saved) {
  if (saved.context().stream.device().type == DeviceType::cuda)
    return saved.limits().tokens / saved.config().model.context;
  return shares_of(saved.config(), saved.mesh().world().size()).largest();
}

/// Cross-entropy over a token file, on rank 0's output and as members of the report. Collective.
void evaluate_tokens(SavedModel& saved, const TokensToEvaluate& tokens, Json& report) {
  const std::string& path = tokens.path;
  const TokenFile file = TokenFile::open(path, tokens.data.token_bytes);
  const ModelConfig& model = saved.config().model;
  const auto spoken = remembered_tokenizer(saved.checkpoint());
  const auto written = tokenizer_of_tokens(path);
  if (spoken && written && !identity_of_tokenizer(*spoken).same_as(*written))
    throw InputFileError(path, fmt::format("holds tokens of {}, but the run's tokenizer is {}",
                                           written->text(), identity_of_tokenizer(*spoken).text()));
  std::optional<DocumentEnds> ends;
  if (tokens.data.documents == Documents::mask) ends.emplace(file, path, tokens.data);
  const Evaluation result = evaluate(
      saved.model(), file,
      {.context = model.context,
       .per_batch = windows_per_pass(saved),
       .max_windows = tokens.max_windows,
       .documents = ends ? &*ends : nullptr,
       .progress = saved.mesh().world().rank() == 0 ? progress_on_stderr() : ProgressOutput{}},
      saved.mesh(), saved.context());
  report.set("loss", result.loss());
  report.set("perplexity", result.perplexity());
  report.set("tokens", result.tokens);
  if (saved.mesh().world().rank() != 0) return;
  std::cout << fmt::format(
                   "tokens      {} predicted of {}\nloss        {:.6f}\nperplexity  {:.4f}\n",
                   with_separators(result.tokens), file.path().string(), result.loss(),
                   result.perplexity())
            << std::flush;
}

struct TasksToEvaluate {
  std::vector<Task> tasks;
  double loading_seconds = 0.0;  // of the model
  bool for_readers = false;      // nothing keeps the scores but who reads standard output
};

/// Scores of the tasks, likewise; each is told as soon as it is known. Returns a line of JSON per
/// item.
std::string evaluate_tasks(SavedModel& saved, const Tokenizer& tokenizer, TasksToEvaluate asked,
                           Json& report) {
  const bool shows = saved.mesh().world().rank() == 0;
  const AnsweringModel answering = saved.answering();
  // All of them before the first is asked: a bad item of the last is told at once.
  std::vector<PreparedTask> prepared;
  for (Task& task : asked.tasks)
    prepared.emplace_back(std::move(task), tokenizer, saved.config().model.context);
  std::vector<std::string> names;
  for (const PreparedTask& task : prepared) names.push_back(task.task().name);
  const std::size_t width = name_width(names);
  std::vector<TaskScores> scores;
  std::string items;
  for (const PreparedTask& task : prepared) {
    if (asked.for_readers && least_of_ranks(!shows || std::cout ? 1 : 0, saved.mesh().world()) == 0)
      break;
    const TaskAnswers answers = finite_or_refused(saved, [&] {
      return task.answer(answering, shows ? progress_on_stderr() : ProgressOutput{}).value();
    });
    scores.push_back(score(task.task(), answers.items));
    scores.back().work = answers.work;
    items += items_jsonl(task.task(), answers.items);
    if (shows) std::cout << scores_line(scores.back(), width) << std::flush;
  }
  report.set("loading_seconds", asked.loading_seconds);
  const Json json = scores_json(scores);
  for (const Json::Member& member : json.members()) report.set(member.key, member.value);
  if (shows) std::cout << macro_line(scores, width) << work_table(scores, asked.loading_seconds);
  return items;
}

std::vector<NamedPath> outputs_of(const CommandLine& line) {
  std::vector<NamedPath> outputs;
  for (const std::string name : {"json", "items"})
    if (line.has(name)) outputs.push_back({"--" + name, line.value(name)});
  return outputs;
}

std::vector<NamedPath> inputs_of(const CommandLine& line) {
  std::vector<NamedPath> inputs;
  add_run(inputs, "--checkpoint", line.value("checkpoint"));
  if (line.has("tokens")) add_tokens(inputs, "--tokens", line.value("tokens"));
  for (const std::string& file : line.values("tasks")) inputs.push_back({"--tasks", file});
  if (line.has("tokenizer")) inputs.push_back({"--tokenizer", line.value("tokenizer")});
  return inputs;
}

struct NamedContent {
  std::filesystem::path path;
  std::string content;
};

/// Each on its own: one that cannot be written costs no other. Throws OutputFileError that names
/// all of those.
void write_all(const std::vector<NamedContent>& files) {
  std::vector<std::string> faults;
  for (const NamedContent& file : files) {
    try {
      write_named_output(file.path, file.content);
    } catch (const OutputFileError& error) {
      faults.emplace_back(error.what());
    }
  }
  if (!faults.empty()) throw OutputFileError("", fmt::format("{}", fmt::join(faults, "; ")));
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = eval_command().parse(args);
  const auto whole_number = [&](const char* option, int otherwise, int least, int most) {
    if (!line.has(option)) return otherwise;
    const auto value = parse_count(line.value(option));
    if (!value || *value < least || *value > most)
      throw InvalidArgument(fmt::format("--{} {}: must be a whole number in [{}, {}]", option,
                                        line.value(option), least, most));
    return static_cast<int>(*value);
  };
  const int threads = whole_number("threads", 0, 0, 65536);
  int token_bytes = whole_number("token-bytes", 0, 2, 4);
  token_bytes = whole_number("data.token_bytes", token_bytes, 2, 4);
  const int batch = whole_number("batch", 0, 1, most_batch);
  const int max_windows = whole_number("max-windows", 0, 1, std::numeric_limits<int>::max());

  const int end_of_text = whole_number("data.end_of_text", -1, 0, std::numeric_limits<int>::max());
  const std::string documents = line.value("data.documents");
  if (!documents.empty() && documents != "mask" && documents != "ignore")
    throw InvalidArgument(fmt::format("--data.documents {}: must be ignore or mask", documents));

  if (!line.has("tokens") && !line.has("tasks"))
    throw InvalidArgument("--tokens, --tasks: one of them must be given");
  if (line.has("items") && !line.has("tasks"))
    throw InvalidArgument("--items: needs --tasks, whose items it writes");
  if (line.has("batch") && !line.has("tasks"))
    throw InvalidArgument("--batch: needs --tasks, whose answers it generates");
  if (line.has("max-windows") && !line.has("tokens"))
    throw InvalidArgument("--max-windows: needs --tokens, whose windows it counts");
  const std::vector<std::string> files = line.values("tasks");
  on_first_rank(*context.world, [&] { refuse_to_replace(outputs_of(line), inputs_of(line)); });
  std::vector<Task> tasks = read_tasks({files.begin(), files.end()});
  on_first_rank(*context.world, [&] {  // better now than after the work
    for (const NamedPath& output : outputs_of(line)) check_named_output(output.path);
  });

  const Device device = inference_device(line, context);
  const auto begin = std::chrono::steady_clock::now();
  std::optional<Elapsed> loading(std::in_place,
                                 context.rank == 0 ? progress_on_stderr() : ProgressOutput{},
                                 "loading " + line.value("checkpoint"));
  SavedModel saved(
      line.value("checkpoint"), std::move(context.world),
      {.threads = threads, .device = device, .batch = batch, .scores = !tasks.empty()});
  loading.reset();
  const double loading_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (context.rank == 0) std::cout << "checkpoint  " << saved.checkpoint().string() << std::endl;
  Json report = Json::object();
  std::string items;
  if (line.has("tokens")) {
    DataConfig data = saved.config().data;
    if (token_bytes != 0) data.token_bytes = token_bytes;
    if (!documents.empty())
      data.documents = documents == "mask" ? Documents::mask : Documents::ignore;
    if (end_of_text >= 0) data.end_of_text = end_of_text;
    evaluate_tokens(
        saved, {.path = line.value("tokens"), .data = std::move(data), .max_windows = max_windows},
        report);
  }
  if (!tasks.empty()) {
    const auto tokenizer = load_run_tokenizer(line.value("tokenizer"), line.value("checkpoint"),
                                              saved.config().model.vocab);
    items = evaluate_tasks(saved, *tokenizer,
                           {.tasks = std::move(tasks),
                            .loading_seconds = loading_seconds,
                            .for_readers = !line.has("json") && !line.has("items")},
                           report);
  }
  saved.shutdown();
  if (context.rank != 0) return exit_done;
  std::vector<NamedContent> results;
  if (line.has("json")) results.push_back({line.value("json"), report.dump() + "\n"});
  if (line.has("items")) results.push_back({line.value("items"), items});
  std::cout << std::flush;  // may be where a file goes, too
  write_all(results);
  return exit_done;
}

}  // namespace

const Command& eval_command() {
  static const Command command = {
      .name = "eval",
      .summary = "Measures a checkpoint: cross-entropy on a token file, scores on tasks",
      .arguments = "",
      .options =
          {{.name = "checkpoint",
            .value = "DIR",
            .help = "a checkpoint, or a run directory: then its newest valid one",
            .required = true},
           {.name = "tokens",
            .value = "FILE",
            .help = "cross-entropy and perplexity on it: Megatron .bin with .idx, llm.c .bin, or "
                    "raw .npy"},
           {.name = "max-windows",
            .value = "N",
            .help = "only its first N windows of model.context tokens; default: the whole file"},
           {.name = "tasks",
            .value = "FILE...",
            .help = "scores on request files, one JSON object a line, also .gz or .zst: "
                    "request.context and request.continuation with doc_id, idx, label; or context, "
                    "choices, gold; or context, until, gold"},
           {.name = "tokenizer",
            .value = "MODEL",
            .help = "of the tasks: a tokenizer.json, a sentencepiece model, or `bytes`; default: "
                    "the one that the run remembers"},
           {.name = "json", .value = "OUT", .help = "writes the results there"},
           {.name = "items",
            .value = "OUT",
            .help = "writes what the model said to each item of the tasks, one JSON object a line"},
           batch_option(),
           {.name = "token-bytes",
            .value = "N",
            .help =
                "width of the tokens of a raw .npy file, 2 or 4; default: as the run was trained"},
           {.name = "data.token_bytes", .value = "N", .help = "the same"},
           {.name = "data.documents",
            .value = "ignore|mask",
            .help = "whether attention and targets keep to the file's documents; default: as the "
                    "run was trained"},
           {.name = "data.end_of_text",
            .value = "ID",
            .help = "ends documents where no index of the file does"},
           device_option(),
           {.name = "threads",
            .value = "N",
            .help = "of each rank; default: the node's cores shared by its ranks"}},
      .ranks = true,
      .outlives_readers = true,
      .run = run};
  return command;
}

}  // namespace polymoe
