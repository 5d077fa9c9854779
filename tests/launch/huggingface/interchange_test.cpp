// SPDX-License-Identifier: Apache-2.0
#include "launch/huggingface/interchange.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/data/tokenizer.h"
#include "launch/inference/saved_model.h"
#include "launch/step/evaluation.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "runtime/random.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/compare.h"
#include "tests/support/random_tensor.h"
#include "tests/support/recorded_progress.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_bytes;
using test::TemporaryDirectory;
using test::write_bytes;

const fs::path fixtures = fs::path(POLYMOE_FIXTURES) / "huggingface";

fs::path import(const fs::path& from, const fs::path& to, int ranks = 1, int expert_parallel = 1) {
  return import_huggingface(
             {.from = from, .to = to, .ranks = ranks, .expert_parallel = expert_parallel})
      .checkpoint;
}

double loss_of(const fs::path& checkpoint, int ranks) {
  const TokenFile tokens = TokenFile::open(fixtures / "tokens.npy", 2);
  double loss = 0.0;
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    const int rank = world->rank();
    SavedModel saved(checkpoint, std::move(world), {.threads = 1});
    const Evaluation result =
        evaluate(saved.model(), tokens,
                 {.context = saved.config().model.context, .per_batch = 2, .max_windows = 0},
                 saved.mesh(), saved.context());
    if (rank == 0) loss = result.loss();
    saved.shutdown();
  });
  return loss;
}

using Contents = std::map<std::string, std::vector<float>>;

Contents contents_of(const CheckpointReader& reader) {
  Contents contents;
  for (const auto& tensor : reader.manifest().tensors) {
    const OwnedTensor values = test::poisoned_tensor(tensor.shape, DType::f32);
    reader.read({{.name = tensor.name, .shape = tensor.shape, .begin = 0, .data = *values}});
    const float* first = values->data<float>();
    contents[tensor.name].assign(first, first + tensor.shape.elements());
  }
  return contents;
}

Contents contents_of(const SafetensorsModel& model) {
  Contents contents;
  for (const auto& [name, source] : model.tensors()) {
    const OwnedTensor values = test::poisoned_tensor({source.entry->elements}, DType::f32);
    source.file->read(*source.entry, 0, *values);
    const float* first = values->data<float>();
    contents[name].assign(first, first + source.entry->elements);
  }
  return contents;
}

bool same_bits(const Contents& a, const Contents& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, values] : a) {
    const auto found = b.find(name);
    if (found == b.end() || found->second.size() != values.size() ||
        std::memcmp(values.data(), found->second.data(), values.size() * sizeof(float)) != 0)
      return false;
  }
  return true;
}

/// A checkpoint of random values in the manner of a run's: DIR/checkpoints/step-00000007.
fs::path random_checkpoint(const fs::path& directory, const std::vector<std::string>& overrides) {
  const Config config = parse_config(to_ini(test::tiny_config("data")), "test", overrides);
  write_checkpoint(
      directory / "checkpoints",
      {.step = 7,
       .tokens = 70,
       .ranks = 2,
       .expert_parallel = 1,
       .config = to_ini(config),
       .state = "{\"next_sample\":9}"},
      [&](int rank) {
        return checkpoint_pieces(config.model, {.rank = rank, .ranks = 2, .expert_parallel = 1},
                                 false);
      },
      [](const TensorPiece& piece) {
        const RandomStream random(1, piece.name);
        for (std::int64_t i = 0; i < piece.data.elements(); ++i)
          piece.data.data<float>()[i] =
              static_cast<float>(random.normal(static_cast<std::uint64_t>(piece.begin + i)));
      });
  return directory / "checkpoints" / checkpoint_name(7);
}

TEST(HuggingFace, ImportedModelsHaveTheLossThatTransformersFound) {
  const Json losses = parse_json(read_bytes(fixtures / "losses.json"), "losses.json");
  ASSERT_EQ(losses.members().size(), 4u);
  for (const auto& [name, loss] : losses.members()) {
    const TemporaryDirectory directory;
    const fs::path checkpoint = import(fixtures / name, directory.path() / "run", 3);
    EXPECT_NEAR(loss_of(checkpoint, 1), loss.as_number(), 1e-5) << name;
    EXPECT_NEAR(loss_of(directory.path() / "run", 2), loss.as_number(), 1e-5) << name;
  }
}

TEST(HuggingFace, ImportThenExportGivesTheSameTensors) {
  for (const std::string name : {"olmoe", "llama"}) {
    const TemporaryDirectory directory;
    const fs::path checkpoint =
        import(fixtures / name, directory.path() / "run", 4, name == "olmoe" ? 2 : 1);
    export_huggingface(
        {.from = checkpoint, .to = directory.path() / "out", .max_file_bytes = 5000});
    EXPECT_TRUE(fs::exists(directory.path() / "out" / SafetensorsModel::index_name));
    EXPECT_TRUE(same_bits(contents_of(SafetensorsModel(directory.path() / "out")),
                          contents_of(SafetensorsModel(fixtures / name))))
        << name;
  }
}

TEST(HuggingFace, ReadsExpertsThatAreStacked) {
  const TemporaryDirectory directory;
  const SafetensorsModel parts(fixtures / "olmoe");
  std::vector<SafetensorsWriter::Plan> plan;
  std::map<std::string, std::vector<std::string>> sources;
  for (const auto& [name, source] : parts.tensors()) {
    if (name.find(".experts.") != std::string::npos) continue;
    const auto& extents = source.entry->extents;
    plan.push_back({name, extents.size() == 1 ? Shape{extents[0]} : Shape{extents[0], extents[1]}});
    sources[name] = {name};
  }
  for (const std::string layer : {"model.layers.0", "model.layers.1"}) {
    const std::string experts = layer + ".mlp.experts";
    plan.push_back({experts + ".gate_up_proj", {4, 16, 16}});
    plan.push_back({experts + ".down_proj", {4, 16, 8}});
    for (const std::string e : {".0", ".1", ".2", ".3"}) {
      sources[experts + ".gate_up_proj"].push_back(experts + e + ".gate_proj.weight");
      sources[experts + ".gate_up_proj"].push_back(experts + e + ".up_proj.weight");
      sources[experts + ".down_proj"].push_back(experts + e + ".down_proj.weight");
    }
  }
  fs::create_directory(directory.path() / "stacked");
  fs::copy(fixtures / "olmoe" / "config.json", directory.path() / "stacked");
  SafetensorsWriter writer(directory.path() / "stacked", plan, {});
  for (const SafetensorsWriter::Plan& tensor : plan)
    for (const std::string& name : sources[tensor.name]) {
      const auto* source = parts.find(name);
      const OwnedTensor values({source->entry->elements}, DType::f32, Device::cpu());
      source->file->read(*source->entry, 0, *values);
      writer.append(tensor.name, *values);
    }
  writer.finish();
  const CheckpointReader a(import(directory.path() / "stacked", directory.path() / "a", 2, 2));
  const CheckpointReader b(import(fixtures / "olmoe", directory.path() / "b"));
  EXPECT_TRUE(same_bits(contents_of(a), contents_of(b)));
}

TEST(HuggingFace, OwnExportsComeBackBitForBit) {
  const std::vector<std::vector<std::string>> models = {
      {},
      {"--moe.coefficients=expert", "--moe.shared_experts=2", "--moe.dense_layers=1",
       "--moe.scores=sigmoid", "--model.activation=polyprelu", "--model.order=4"},
      {"--moe.experts=0", "--moe.top_k=1", "--model.activation=prelu", "--model.tied=true"},
      {"--model.activation=swiglu", "--moe.bias_rate=0", "--model.kv_heads=1",
       "--moe.normalize=true"},
  };
  for (const auto& overrides : models) {
    const TemporaryDirectory directory;
    const fs::path original = random_checkpoint(directory.path(), overrides);
    const InterchangeReport report =
        export_huggingface({.from = original, .to = directory.path() / "out"});
    const bool plain = !overrides.empty() && overrides.front() == "--model.activation=swiglu";
    EXPECT_EQ(report.architecture, plain ? "OlmoeForCausalLM" : "PolymoeForCausalLM");
    EXPECT_EQ(fs::exists(directory.path() / "out" / "modeling_polymoe.py"), !plain);
    const CheckpointReader before(original);
    const CheckpointReader after(import(directory.path() / "out", directory.path() / "run", 3));
    EXPECT_EQ(after.info().step, 0);
    EXPECT_TRUE(same_bits(contents_of(before), contents_of(after)));
    const Config a = parse_config(before.info().config, "before", {});
    const Config b = parse_config(after.info().config, "after", {});
    EXPECT_EQ(model_differences(a, b), std::vector<std::string>{});
    EXPECT_EQ(a.model.context, b.model.context);
    EXPECT_EQ(read_bytes(directory.path() / "run" / "config.ini"), after.info().config);
  }
}

TEST(HuggingFace, RoundsToBfloat16OnRequest) {
  const TemporaryDirectory directory;
  const fs::path original = random_checkpoint(directory.path(), {});
  export_huggingface(
      {.from = directory.path(), .to = directory.path() / "out", .dtype = SafetensorsDType::bf16});
  const Contents before = contents_of(CheckpointReader(original));
  const Contents after =
      contents_of(CheckpointReader(import(directory.path() / "out", directory.path() / "run")));
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, values] : before) {
    const std::vector<float>& rounded = after.at(name);
    ASSERT_EQ(values.size(), rounded.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_NEAR(rounded[i], values[i], 0x1p-8 * std::abs(values[i])) << name;
  }
}

TEST(HuggingFace, TheTokenizerTravelsWithTheModel) {
  const TemporaryDirectory directory;
  random_checkpoint(directory.path() / "run", {"--model.vocab=300"});
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back("a line of text " + std::to_string(i * i) + "\n");
  std::size_t next = 0;
  train_sentencepiece(280, (directory.path() / "run" / "tokenizer.model").string(),
                      [&] { return next < texts.size() ? texts[next++] : std::string_view(); });
  export_huggingface({.from = directory.path() / "run", .to = directory.path() / "out"});
  import(directory.path() / "out", directory.path() / "again");
  EXPECT_EQ(read_bytes(directory.path() / "run" / "tokenizer.model"),
            read_bytes(directory.path() / "again" / "tokenizer.model"));
  // What an independent LlamaTokenizer needs for the ids of sentencepiece on such a model.
  const Json tokenizer =
      parse_json(read_bytes(directory.path() / "out" / "tokenizer_config.json"), "tokenizer");
  EXPECT_EQ(tokenizer.at("tokenizer_class").as_string(), "LlamaTokenizer");
  EXPECT_FALSE(tokenizer.at("add_prefix_space").as_bool());
  EXPECT_EQ(tokenizer.at("eos_token").as_string(), "</s>");
  EXPECT_TRUE(tokenizer.at("bos_token").is_null());
  const Json config = parse_json(read_bytes(directory.path() / "out" / "config.json"), "config");
  EXPECT_EQ(
      config.at("eos_token_id").as_integer(),
      load_tokenizer((directory.path() / "run" / "tokenizer.model").string())->end_of_document());
}

TEST(HuggingFace, TokenizerJsonTravelsWithTheModel) {
  const TemporaryDirectory directory;
  random_checkpoint(directory.path() / "run", {"--model.vocab=600"});
  const std::string tokenizer =
      read_bytes(std::string(POLYMOE_FIXTURES) + "/tokenizers/gpt_neox.json");
  test::write_bytes(directory.path() / "run" / "tokenizer.json", tokenizer);
  export_huggingface({.from = directory.path() / "run", .to = directory.path() / "out"});
  EXPECT_EQ(read_bytes(directory.path() / "out" / "tokenizer.json"), tokenizer);
  const Json config =
      parse_json(read_bytes(directory.path() / "out" / "tokenizer_config.json"), "config");
  EXPECT_EQ(config.at("tokenizer_class").as_string(), "PreTrainedTokenizerFast");
  EXPECT_EQ(config.at("eos_token").as_string(), "<|endoftext|>");
  import(directory.path() / "out", directory.path() / "again");
  EXPECT_EQ(read_bytes(directory.path() / "again" / "tokenizer.json"), tokenizer);
  EXPECT_EQ(read_bytes(directory.path() / "again" / "tokenizer_config.json"),
            read_bytes(directory.path() / "out" / "tokenizer_config.json"));

  // One that is not supported is named, and the other taken.
  test::write_bytes(directory.path() / "out" / "tokenizer.json",
                    R"({"model": {"type": "WordPiece", "vocab": {}}})");
  const InterchangeReport report = import_huggingface(
      {.from = directory.path() / "out", .to = directory.path() / "other", .ranks = 1});
  EXPECT_FALSE(fs::exists(directory.path() / "other" / "tokenizer.json"));
  ASSERT_FALSE(report.notes.empty());
  EXPECT_NE(report.notes.front().find("'WordPiece' is not supported"), std::string::npos);
}

TEST(HuggingFace, ATemplateOfConversationsBesideTheTokenizerTravelsWithinItsConfiguration) {
  const TemporaryDirectory directory;
  random_checkpoint(directory.path() / "run", {"--model.vocab=600"});
  write_bytes(directory.path() / "run" / "tokenizer.json",
              read_bytes(std::string(POLYMOE_FIXTURES) + "/tokenizers/gpt_neox.json"));
  export_huggingface({.from = directory.path() / "run", .to = directory.path() / "out"});
  write_bytes(directory.path() / "out" / "chat_template.jinja", "{{ messages }} <|im_start|>");
  import(directory.path() / "out", directory.path() / "again");
  const Json config =
      parse_json(read_bytes(directory.path() / "again" / "tokenizer_config.json"), "config");
  EXPECT_EQ(config.at("chat_template").as_string(), "{{ messages }} <|im_start|>");
  EXPECT_EQ(config.at("eos_token").as_string(), "<|endoftext|>");
}

TEST(HuggingFace, TheBuiltInTokenizerIsKnownAgain) {
  const TemporaryDirectory directory;
  random_checkpoint(directory.path() / "run", {"--model.vocab=300"});
  write_bytes(directory.path() / "run" / "tokenizer", "bytes\n");
  export_huggingface({.from = directory.path() / "run", .to = directory.path() / "out"});
  import(directory.path() / "out", directory.path() / "again");
  EXPECT_EQ(read_bytes(directory.path() / "again" / "tokenizer"), "bytes\n");
}

TEST(HuggingFace, TrainingStartsFromAnImportedModelWithFreshMoments) {
  const TemporaryDirectory directory;
  Config config = test::tiny_config(directory.path());
  test::write_tokens(directory.path() / "tokens", 5000, config.model.vocab, 3);
  export_huggingface(
      {.from = random_checkpoint(directory.path() / "a", {}), .to = directory.path() / "out"});
  const fs::path imported = import(directory.path() / "out", directory.path() / "b", 2);
  // The same parameters, and moments that are zero.
  const CheckpointReader reader(imported);
  write_checkpoint(
      directory.path() / "c",
      {.step = 0,
       .tokens = 0,
       .ranks = 1,
       .expert_parallel = 1,
       .config = reader.info().config,
       .state = "{\"next_sample\":0}"},
      [&](int) { return checkpoint_pieces(config.model, {}, true); },
      [&](const TensorPiece& piece) {
        if (reader.has(piece.name)) reader.read({piece});
      });
  std::vector<std::map<std::string, std::vector<float>>> ends;
  for (const fs::path& start : {imported, directory.path() / "c" / checkpoint_name(0)}) {
    config.run.dir = (directory.path() / ("run" + std::to_string(ends.size()))).string();
    config.checkpoint.resume = start.string();
    config.train.stop_after = 2;
    test::train(config, {.ranks = 1});
    EXPECT_EQ(test::metrics_of(config.run.dir).front().at("step").as_integer(), 1);
    ends.push_back(
        test::checkpoint_contents(fs::path(config.run.dir) / "checkpoints" / checkpoint_name(2)));
  }
  EXPECT_TRUE(same_bits(ends[0], ends[1]));
  // The run's own checkpoint has moments, and goes on from them.
  config.checkpoint.resume = "auto";
  config.train.stop_after = 1;
  EXPECT_EQ(test::train(config, {.ranks = 1}), RunEnd::stopped);
}

/// The refusal of a copy of a fixture with a changed config.json.
std::string refusal(const std::string& name, const std::string& from, const std::string& to) {
  const TemporaryDirectory directory;
  fs::copy(fixtures / name, directory.path() / "in");
  std::string config = read_bytes(fixtures / name / "config.json");
  const std::size_t place = config.find(from);
  if (place == std::string::npos) throw std::runtime_error("no " + from);
  write_bytes(directory.path() / "in" / "config.json", config.replace(place, from.size(), to));
  const std::string message = message_of<InputFileError>(
      [&] { import(directory.path() / "in", directory.path() / "out"); });
  for (const auto& entry : fs::directory_iterator(directory.path()))
    EXPECT_EQ(entry.path().filename(), "in");
  return message;
}

TEST(HuggingFace, RefusesWhatItWouldNotComputeAlike) {
  struct Case {
    std::string name, from, to, cause;
  };
  const Case cases[] = {
      {"llama", "\"model_type\": \"llama\"", "\"model_type\": \"gpt2\"", "must be llama, olmoe"},
      {"llama", "\"model_type\": \"llama\",", "", "the key model_type is missing"},
      {"llama", "{", "[", "not the JSON expected"},
      {"llama", "\"rope_type\": \"default\"", "\"rope_type\": \"llama3\"",
       "rope_parameters.rope_type"},
      {"llama", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act"},
      {"llama", "\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"},
      {"llama", "\"mlp_bias\": false", "\"mlp_bias\": true", "mlp_bias"},
      {"llama", "\"head_dim\": 4", "\"head_dim\": 8", "head_dim = 8"},
      {"olmoe", "\"clip_qkv\": null", "\"clip_qkv\": 8.0", "clip_qkv = 8.0: must be null"},
      {"olmoe", "\"num_experts\": 4", "\"num_experts\": 4.5", "num_experts: expected an integer"},
      {"olmoe", "\"num_experts\": 4", "\"num_experts\": -4", "num_experts: expected an integer"},
      {"olmoe", "\"num_experts\": 4", "\"num_experts\": 0", "num_experts = 0"},
      {"olmoe", "\"num_experts\": 4", "\"num_experts\": 5", "gate.weight is [4, 16]"},
      {"olmoe", "\"num_experts\": 4", "\"num_experts\": 3", "gate.weight is [4, 16]"},
      {"olmoe", "\"hidden_size\": 16", "\"hidden_size\": 15", "model.heads"},
      {"olmoe", "\"hidden_size\": 16", "\"hidden_size\": 24", "embed_tokens.weight is [61, 16]"},
      {"olmoe", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
       "holds no tensor model.layers.2.input_layernorm.weight"},
      {"olmoe", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 65536",
       "holds no tensor model.layers.2.input_layernorm.weight"},
      {"olmoe", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
       "holds tensor model.layers.1."},
      {"olmoe", "\"num_attention_heads\": 4,", "", "num_attention_heads is missing"},
      {"olmoe", "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 2.0",
       "model.norm_epsilon = 2: must be a number in (0, 1]"},
  };
  for (const Case& c : cases) {
    const std::string message = refusal(c.name, c.from, c.to);
    EXPECT_NE(message.find(c.cause), std::string::npos) << c.cause << ": " << message;
  }
}

TEST(HuggingFace, AHeadOfItsOwnIsKeptWhateverConfigSaysOfTies) {
  const TemporaryDirectory directory;
  const fs::path in = directory.path() / "in";
  fs::copy(fixtures / "llama", in);
  std::string config = read_bytes(in / "config.json");
  for (const auto& [from, to] : std::map<std::string, std::string>{
           {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"},
           {"\"rms_norm_eps\": 1e-06,", ""}}) {  // as the default
    ASSERT_NE(config.find(from), std::string::npos) << from;
    config.replace(config.find(from), from.size(), to);
  }
  write_bytes(in / "config.json", config);
  write_bytes(in / "generation_config.json", "{}");
  const InterchangeReport report =
      import_huggingface({.from = in, .to = directory.path() / "apart"});
  import(fixtures / "llama", directory.path() / "plain");
  EXPECT_DOUBLE_EQ(loss_of(directory.path() / "apart", 1), loss_of(directory.path() / "plain", 1));
  std::string notes;
  for (const std::string& note : report.notes) notes += note + "\n";
  EXPECT_NE(notes.find("lm_head.weight is not the embedding"), std::string::npos) << notes;
  EXPECT_NE(notes.find("generation_config.json"), std::string::npos) << notes;
}

TEST(HuggingFace, TellsHowFarItIs) {
  const TemporaryDirectory directory;
  const test::RecordedProgress imported, exported;
  import_huggingface(
      {.from = fixtures / "llama", .to = directory.path() / "run", .progress = imported.output()});
  EXPECT_TRUE(imported.text().starts_with("\rimporting  ")) << imported.text();
  export_huggingface({.from = directory.path() / "run",
                      .to = directory.path() / "out",
                      .progress = exported.output()});
  EXPECT_TRUE(exported.text().starts_with("\rexporting  ")) << exported.text();
}

TEST(HuggingFace, LeavesWhatExistsAlone) {
  const TemporaryDirectory directory;
  const fs::path out = directory.path() / "out";
  fs::create_directory(out);
  import(fixtures / "llama", out);
  const std::string message = message_of<InvalidArgument>([&] { import(fixtures / "llama", out); });
  EXPECT_NE(message.find("OUT"), std::string::npos) << message;
  EXPECT_NE(message_of<InvalidArgument>([&] {
              export_huggingface({.from = out, .to = out});
            }).find("must be a new or an empty directory"),
            std::string::npos);
  EXPECT_THROW(import(fixtures / "olmoe", directory.path() / "b", 2, 3), InvalidArgument);
  EXPECT_THROW(import(fixtures / "olmoe", directory.path() / "b", 3, 3), InvalidArgument);
  EXPECT_THROW(import(directory.path(), directory.path() / "b"), InputFileError);
  EXPECT_FALSE(fs::exists(directory.path() / "b"));
}

}  // namespace
}  // namespace polymoe
