// SPDX-License-Identifier: Apache-2.0
#include "tests/launch/training/tiny_training.h"

#include <sstream>

#include "parallel/checkpoint/reader.h"
#include "parallel/communication/device_world.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/random.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe::test {

namespace fs = std::filesystem;

void write_tokens(const fs::path& prefix, std::int64_t count, std::int64_t vocab,
                  std::uint64_t seed) {
  constexpr std::int64_t document = 100;
  const RandomStream random(seed, "tokens");
  MegatronWriter writer(prefix, vocab);
  std::vector<std::int32_t> tokens;
  std::int64_t token = 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    const bool exception = random.uniform(2 * index) < 0.1;
    token = exception ? static_cast<std::int64_t>(random.bits(2 * index + 1) %
                                                  static_cast<std::uint64_t>(vocab))
                      : (5 * token + 3) % vocab;
    tokens.push_back(static_cast<std::int32_t>(token));
    if (static_cast<std::int64_t>(tokens.size()) == document || i + 1 == count) {
      writer.add(tokens);
      tokens.clear();
    }
  }
  writer.finish();
}

Config tiny_config(const fs::path& directory) {
  return parse_config(R"(
[model]
layers = 2
hidden = 32
heads = 2
vocab = 64
context = 16
activation = polynorm
qk_norm = true
[moe]
experts = 4
top_k = 2
expert_ffn = 24
bias_rate = 0.001
[train]
steps = 20
global_batch = 8
micro_batch = 2
seed = 7
[optimizer]
lr = 0.003
min_lr = 0.0003
warmup = 2
[run]
threads = 1
)",
                      "tiny.ini",
                      {"--data.train=" + (directory / "tokens").string(),
                       "--run.dir=" + (directory / "run").string()});
}

RunEnd train(Config config, Layout layout,
             const std::function<void(int rank, TrainerOptions&)>& change) {
  config.parallel.expert = layout.expert_parallel;
  RunEnd end = RunEnd::finished;
  run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
    const int rank = world->rank();
    TrainerOptions options{.device = Device::cpu(), .environment = "{}\n", .rate_extent = 64};
    if (change) change(rank, options);
    options.device_sharers = options.device.type == DeviceType::cuda ? layout.ranks : 1;
    DeviceWorld on_device =
        make_device_world(std::move(world), options.device, {.share_devices = true});
    ProcessMesh mesh(std::move(on_device.communicator), layout.expert_parallel);
    Trainer trainer(config, mesh, options);
    const RunEnd own = trainer.run();
    if (rank == 0) end = own;
    mesh.shutdown();
  });
  return end;
}

std::vector<Json> json_lines(const fs::path& path) {
  std::vector<Json> rows;
  std::istringstream text(read_bytes(path));
  for (std::string line; std::getline(text, line);)
    rows.push_back(parse_json(line, path.filename().string()));
  return rows;
}

std::vector<Json> metrics_of(const fs::path& run) { return json_lines(run / "metrics.jsonl"); }

std::string without_times(const Json& row) {
  Json kept = Json::object();
  for (const auto& [key, value] : row.members())
    if (key != "step_seconds" && key != "tokens_per_second" && key != "mfu" &&
        key != "checkpoint_seconds" && key != "exposed_exchange" && key != "waiting" &&
        key != "routing_tax" && key != "hardware_tax" && key != "ranks")
      kept.set(key, value);
  return kept.dump();
}

std::map<std::string, std::vector<float>> checkpoint_contents(const fs::path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  const Config config = parse_config(reader.info().config, checkpoint.string(), {});
  auto world = make_local_communicators(1);
  const ProcessMesh mesh(std::move(world[0]), 1);
  ParameterStore store(mesh);
  LanguageModel model(config.model, mesh, store);
  store.allocate(DType::f32, Device::cpu());
  ShardedOptimizer optimizer(store, config.optimizer.adamw);
  std::vector<TensorPiece> pieces = optimizer.pieces_to_load(true);
  for (TensorPiece& piece : model.router_bias_pieces()) pieces.push_back(std::move(piece));
  reader.read(pieces);
  std::map<std::string, std::vector<float>> contents;
  for (const TensorPiece& piece : pieces) {
    std::vector<float>& tensor = contents[piece.name];
    tensor.resize(static_cast<std::size_t>(piece.shape.elements()));
    const float* values = piece.data.data<float>();
    std::copy(values, values + piece.data.elements(), tensor.begin() + piece.begin);
  }
  return contents;
}

}  // namespace polymoe::test
