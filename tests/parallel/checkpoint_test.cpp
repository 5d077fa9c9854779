// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/hash.h"
#include "runtime/random.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TemporaryDirectory;

/// The tensors of a small model: no extent is a multiple of 4, one is empty, one is a scalar.
const std::vector<std::pair<std::string, Shape>> tensors = {
    {"parameter/embedding.weight", {33, 5}},
    {"parameter/layers.0.experts.0.up.weight", {7, 3, 2}},
    {"parameter/layers.0.experts.10.up.weight", {7, 3, 2}},
    {"moment1/layers.0.router.bias", {1}},
    {"moment2/empty", {0, 9}},
    {"scalar", {}},
};

template <class T>
T value_of(const std::string& name, std::int64_t i) {
  return static_cast<T>(1000 * RandomStream(3, name).normal(static_cast<std::uint64_t>(i)));
}

/// Pieces and the memory they view. An owned slice is [rank, rank + 1) / ranks of all elements laid
/// end to end, as the optimizer's slices are.
struct Holding {
  std::deque<OwnedTensor> memory;
  std::vector<TensorPiece> pieces;

  void add(const std::string& name, const Shape& shape, DType dtype, std::int64_t begin,
           std::int64_t end) {
    memory.emplace_back(Shape{end - begin}, dtype, Device::cpu());
    pieces.push_back({name, shape, begin, *memory.back()});
  }
};

Holding slices(int rank, int ranks, DType dtype) {
  std::int64_t total = 0;
  for (const auto& [name, shape] : tensors) total += shape.elements();
  const std::int64_t begin = total * rank / ranks, end = total * (rank + 1) / ranks;
  Holding holding;
  std::int64_t first = 0;
  for (const auto& [name, shape] : tensors) {
    const std::int64_t last = first + shape.elements();
    const std::int64_t from = std::clamp(begin, first, last), to = std::clamp(end, first, last);
    if (from < to || shape.elements() == 0)
      holding.add(name, shape, dtype, from - first, to - first);
    first = last;
  }
  return holding;
}

template <class T>
void fill(Holding& holding) {
  for (TensorPiece& piece : holding.pieces) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
      piece.data.data<T>()[i] = value_of<T>(piece.name, piece.begin + i);
    }
  }
}

template <class T>
std::int64_t wrong_values(const Holding& holding) {
  std::int64_t wrong = 0;
  for (const TensorPiece& piece : holding.pieces) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
      wrong += piece.data.data<T>()[i] != value_of<T>(piece.name, piece.begin + i);
    }
  }
  return wrong;
}

CheckpointInfo info_of(std::int64_t step) {
  return {.step = step,
          .tokens = step * 512,
          .ranks = 1,
          .expert_parallel = 1,
          .config = "[model]\nlayers = 2\n# \"quoted\"\n",
          .state = R"({"sample":12345678901,"bias":[0.1,-3e-05]})"};
}

template <class T = float>
fs::path save(const fs::path& root, std::int64_t step, int ranks) {
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    Holding holding = slices(world->rank(), ranks, dtype_of<T>());
    fill<T>(holding);
    CheckpointInfo info = info_of(step);
    info.expert_parallel = ranks;
    save_checkpoint(root, info, holding.pieces, *world);
  });
  return root / checkpoint_name(step);
}

/// All tensors whole, as a rank reads its parameters.
template <class T = float>
std::int64_t wrong_after_reading(const fs::path& checkpoint) {
  Holding whole = slices(0, 1, dtype_of<T>());
  CheckpointReader(checkpoint).read(whole.pieces);
  return wrong_values<T>(whole);
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

template <class T>
void any_layout_loads_any(const fs::path& root) {
  for (const int ranks : {1, 2, 4}) {
    const fs::path checkpoint = save<T>(root, ranks, ranks);
    for (const int readers : {1, 2, 4}) {
      run_ranks(readers, [&](std::unique_ptr<Communicator> world) {
        const CheckpointReader reader(checkpoint);
        Holding holding = slices(world->rank(), readers, dtype_of<T>());
        reader.read(holding.pieces);
        EXPECT_EQ(wrong_values<T>(holding), 0) << ranks << " to " << readers;
      });
    }
    EXPECT_EQ(wrong_after_reading<T>(checkpoint), 0);
  }
}

TEST(Checkpoint, AnyLayoutLoadsAnyCheckpoint) {
  TemporaryDirectory directory;
  any_layout_loads_any<float>(directory.path() / "f32");
  any_layout_loads_any<double>(directory.path() / "f64");
  any_layout_loads_any<std::int32_t>(directory.path() / "i32");
  any_layout_loads_any<std::int64_t>(directory.path() / "i64");
}

TEST(Checkpoint, SaysOfItselfWhatWasSaved) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path() / "a" / "b", 100, 2);
  EXPECT_EQ(checkpoint.filename(), "step-00000100");
  EXPECT_EQ(names_in(checkpoint),
            (std::vector<std::string>{"manifest.json", "shard-00000-of-00002.h5",
                                      "shard-00001-of-00002.h5"}));
  const CheckpointReader reader(checkpoint);
  const CheckpointInfo expected = info_of(100);
  EXPECT_EQ(reader.info().step, 100);
  EXPECT_EQ(reader.info().tokens, 51200);
  EXPECT_EQ(reader.info().ranks, 2);
  EXPECT_EQ(reader.info().expert_parallel, 2);
  EXPECT_EQ(reader.info().config, expected.config);
  EXPECT_EQ(reader.info().state, expected.state);
  EXPECT_EQ(reader.manifest().tensors.size(), tensors.size());
  for (const auto& [name, shape] : tensors) {
    ASSERT_TRUE(reader.has(name));
    EXPECT_EQ(reader.manifest().find(name)->shape, shape);
  }
  EXPECT_FALSE(reader.has("parameter/none"));
  EXPECT_NO_THROW(reader.verify_hashes());
}

TEST(Checkpoint, TheSameStateGivesTheSameBytes) {
  TemporaryDirectory directory;
  const fs::path a = save(directory.path() / "a", 1, 2), b = save(directory.path() / "b", 1, 2);
  for (const std::string& name : names_in(a)) {
    EXPECT_EQ(test::read_bytes(a / name), test::read_bytes(b / name)) << name;
  }
}

TEST(Checkpoint, RefusesWhatDoesNotFit) {
  TemporaryDirectory directory;
  const CheckpointReader reader(save(directory.path(), 1, 2));
  const auto error_of = [&](const std::string& name, const Shape& shape, DType dtype) {
    Holding holding;
    holding.add(name, shape, dtype, 0, shape.elements());
    return message_of<InputFileError>([&] { reader.read(holding.pieces); });
  };
  EXPECT_EQ(error_of("scalar", {}, DType::f32), "");
  EXPECT_NE(error_of("none", {4}, DType::f32).find("holds no tensor none"), std::string::npos);
  EXPECT_NE(error_of("parameter/embedding.weight", {5, 33}, DType::f32)
                .find("is f32[33, 5], expected f32[5, 33]"),
            std::string::npos);
  EXPECT_NE(error_of("scalar", {}, DType::f64).find("is f32[], expected f64[]"), std::string::npos);
  Holding beyond;
  beyond.add("parameter/embedding.weight", {33, 5}, DType::f32, 160, 166);
  EXPECT_THROW(reader.read(beyond.pieces), InvalidArgument);
}

TEST(Checkpoint, EveryRankThrowsAndTheOldOneStaysWhenOneRankFails) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 5, 4);
  const std::string before = test::read_bytes(checkpoint / "manifest.json");
  struct Fault {
    const char* cause;
    void (*inject)(Holding&, int rank);
  };
  const Fault faults[] = {
      {"rank 2: dataset",
       [](Holding& h, int rank) {
         if (rank == 2) h.pieces.push_back(h.pieces[0]);
       }},
      {"has a hole at element",
       [](Holding& h, int rank) {
         if (rank == 1) h.pieces.erase(h.pieces.begin());
       }},
      {"has an overlap at element",
       [](Holding& h, int rank) {
         if (rank == 3) h.pieces[0].begin -= 1;
       }},
      {"on another",
       [](Holding& h, int rank) {
         if (rank == 0) h.pieces[0].shape = {5, 33};
       }},
      {"rank 3: a dataset of u8",
       [](Holding& h, int rank) {
         if (rank == 3) h.add("bytes", {3}, DType::u8, 0, 3);
       }},
      {"a piece of",
       [](Holding& h, int rank) {
         if (rank == 3) h.add("large", {3}, DType::f32, 0, 4);
       }},
  };
  for (const Fault& fault : faults) {
    std::vector<std::string> messages(4);
    run_ranks(4, [&](std::unique_ptr<Communicator> world) {
      Holding holding = slices(world->rank(), 4, DType::f32);
      fault.inject(holding, world->rank());
      messages[static_cast<std::size_t>(world->rank())] = message_of<OutputFileError>(
          [&] { save_checkpoint(directory.path(), info_of(5), holding.pieces, *world); });
    });
    for (const std::string& message : messages) {
      EXPECT_NE(message.find(fault.cause), std::string::npos) << fault.cause << " in " << message;
    }
    EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000005"});
    EXPECT_EQ(test::read_bytes(checkpoint / "manifest.json"), before);
  }
  EXPECT_EQ(wrong_after_reading(checkpoint), 0);
}

TEST(Checkpoint, AFullDiskLeavesWhatWasThere) {
  TemporaryDirectory directory;
  save(directory.path(), 5, 2);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  std::vector<std::string> messages(2);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Holding holding = slices(world->rank(), 2, DType::f32);
    world->barrier();
    rlimit small = before;
    small.rlim_cur = 1500;
    setrlimit(RLIMIT_FSIZE, &small);
    messages[static_cast<std::size_t>(world->rank())] = message_of<OutputFileError>(
        [&] { save_checkpoint(directory.path(), info_of(6), holding.pieces, *world); });
    world->barrier();
    setrlimit(RLIMIT_FSIZE, &before);
  });
  signal(SIGXFSZ, handler);
  for (const std::string& message : messages) {
    EXPECT_NE(message.find("File too large"), std::string::npos) << message;
    EXPECT_NE(message.find("step-00000006: not saved: rank "), std::string::npos) << message;
  }
  EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000005"});
}

TEST(Checkpoint, PathsThatCannotBeWrittenAreNamed) {
  TemporaryDirectory directory;
  test::write_bytes(directory.path() / "file", "");
  const std::string below_a_file =
      message_of<OutputFileError>([&] { save(directory.path() / "file", 1, 2); });
  EXPECT_NE(below_a_file.find("file/step-00000001"), std::string::npos) << below_a_file;
  // A file in the place of the checkpoint is not ours to replace.
  test::write_bytes(directory.path() / "step-00000001", "text");
  EXPECT_THROW(save(directory.path(), 1, 2), OutputFileError);
  EXPECT_EQ(names_in(directory.path()), (std::vector<std::string>{"file", "step-00000001"}));
}

TEST(Checkpoint, ASecondSaveOfAStepReplacesTheFirst) {
  TemporaryDirectory directory;
  save(directory.path(), 7, 4);
  // What a kill at a bad moment may have left behind.
  fs::create_directories(directory.path() / "step-00000007.partial" / "folder");
  test::write_bytes(directory.path() / "step-00000007.partial" / "manifest.json", "{");
  const fs::path checkpoint = save(directory.path(), 7, 2);
  EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000007"});
  EXPECT_EQ(CheckpointReader(checkpoint).info().ranks, 2);
  EXPECT_EQ(names_in(checkpoint).size(), 3u);
  EXPECT_EQ(wrong_after_reading(checkpoint), 0);
}

class DamagedCheckpoint : public testing::Test {
 protected:
  DamagedCheckpoint() : checkpoint_(save(directory_.path(), 9, 2)) {}
  /// The message of the InputFileError that opening or reading gives.
  std::string error() {
    return message_of<InputFileError>([&] { wrong_after_reading(checkpoint_); });
  }
  TemporaryDirectory directory_;
  fs::path checkpoint_;
};

TEST_F(DamagedCheckpoint, AnyFlippedBitOfTheManifestIsFound) {
  const std::string whole = test::read_bytes(checkpoint_ / "manifest.json");
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    EXPECT_THROW(CheckpointManifest::parse(damaged, "path"), InputFileError) << byte;
  }
  for (std::size_t size = 0; size < whole.size(); size += 13) {
    EXPECT_THROW(CheckpointManifest::parse(whole.substr(0, size), "path"), InputFileError) << size;
  }
  EXPECT_THROW(CheckpointManifest::parse(whole + " ", "path"), InputFileError);
  EXPECT_EQ(CheckpointManifest::parse(whole, "path").to_text(), whole);
}

TEST_F(DamagedCheckpoint, FlippedBitsOfAShardAreFoundBeforeHdf5SeesThem) {
  const fs::path shard = checkpoint_ / "shard-00001-of-00002.h5";
  const std::string whole = test::read_bytes(shard);
  for (std::size_t byte = 0; byte < whole.size(); byte += 31) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    test::write_bytes(shard, damaged);
    EXPECT_NE(error().find("shard-00001-of-00002.h5: is damaged"), std::string::npos) << byte;
  }
  test::write_bytes(shard, whole);
  EXPECT_EQ(error(), "");
}

TEST_F(DamagedCheckpoint, TruncatedMissingAndSwappedShardsAreFound) {
  const fs::path first = checkpoint_ / "shard-00000-of-00002.h5";
  const fs::path second = checkpoint_ / "shard-00001-of-00002.h5";
  const std::string whole = test::read_bytes(first), other = test::read_bytes(second);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, whole.size() - 1}) {
    test::write_bytes(first, whole.substr(0, size));
    EXPECT_NE(error().find("the manifest says " + std::to_string(whole.size())), std::string::npos);
  }
  test::write_bytes(first, other);
  test::write_bytes(second, whole);
  EXPECT_NE(error().find("shard-00000-of-00002.h5: has "), std::string::npos);
  test::write_bytes(second, other);
  // The same rank's shard of another checkpoint: of the right size, with other values.
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const Holding zeros = slices(world->rank(), 2, DType::f32);
    save_checkpoint(directory_.path() / "other", info_of(9), zeros.pieces, *world);
  });
  const std::string stale =
      test::read_bytes(directory_.path() / "other" / "step-00000009" / first.filename());
  ASSERT_EQ(stale.size(), whole.size());
  test::write_bytes(first, stale);
  EXPECT_NE(error().find("shard-00000-of-00002.h5: is damaged"), std::string::npos);
  test::write_bytes(first, whole);
  fs::remove(second);
  EXPECT_NE(error().find("shard-00001-of-00002.h5: cannot open"), std::string::npos);
  fs::remove(checkpoint_ / "manifest.json");
  EXPECT_NE(error().find("manifest.json: cannot open"), std::string::npos);
}

TEST_F(DamagedCheckpoint, AManifestThatLiesWithAGoodHashIsRefused) {
  const std::string whole = test::read_bytes(checkpoint_ / "manifest.json");
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const std::size_t tail = text.rfind(",\n");
    text = text.substr(0, tail) + ",\n  \"xxh3\": \"" + xxh3_of(text.substr(0, tail)) + "\"\n}\n";
    return message_of<InputFileError>([&] { CheckpointManifest::parse(text, "path"); });
  };
  EXPECT_EQ(error_with("\"step\": 9", "\"step\": 10"), "");
  EXPECT_EQ(error_with("\"version\": 1", "\"version\": 2"),
            "path: has format version 2; this program reads up to 1");
  EXPECT_NE(error_with("polymoe checkpoint", "something else"), "");
  EXPECT_NE(error_with("\"shard-00000-of-00002.h5\"", "\"../shard-00000-of-00002.h5\""), "");
  EXPECT_NE(error_with("\"ranks\": 2", "\"ranks\": 3"), "");
  EXPECT_NE(error_with("\"file\": 1", "\"file\": 2"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, 6]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, -5]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [4294967296, 4294967296]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, 5, 1, 1, 1]"), "");
  EXPECT_NE(error_with("\"dtype\": \"f32\"", "\"dtype\": \"f16\""), "");
  EXPECT_NE(error_with("\"step\": 9", "\"step\":  9"), "");
  EXPECT_NE(error_with("\"step\": 9", "\"other\": 1, \"step\": 9"), "");
}

TEST(NewestCheckpoint, PassesOverWhatIsNotValidAndSaysWhy) {
  TemporaryDirectory directory;
  std::vector<std::string> passed_over;
  EXPECT_EQ(newest_checkpoint(directory.path() / "none", passed_over), std::nullopt);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), std::nullopt);
  save(directory.path(), 1, 1);
  const fs::path good = save(directory.path(), 20, 2);
  const fs::path damaged = save(directory.path(), 30, 2);
  fs::create_directory(directory.path() / "step-00000005.partial");
  fs::create_directory(directory.path() / "step-00000040.partial");
  fs::create_directory(directory.path() / "step-00000050");
  for (const char* other : {"step-7", "step-00000060.copy", "step-x", "other"}) {
    fs::create_directory(directory.path() / other);
  }
  std::string bytes = test::read_bytes(damaged / "shard-00001-of-00002.h5");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_bytes(damaged / "shard-00001-of-00002.h5", bytes);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), good);
  ASSERT_EQ(passed_over.size(), 3u);
  EXPECT_NE(passed_over[0].find("step-00000050/manifest.json: cannot open"), std::string::npos);
  EXPECT_NE(passed_over[1].find("step-00000040.partial: was never committed"), std::string::npos);
  EXPECT_NE(passed_over[2].find("shard-00001-of-00002.h5: is damaged"), std::string::npos);
}

TEST(NewestCheckpoint, FindsTheOldOneOfAReplacementThatWasCutOff) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 3, 1);
  const fs::path replaced = directory.path() / "step-00000003.replaced";
  fs::rename(checkpoint, replaced);
  std::vector<std::string> passed_over;
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), replaced);
  save(directory.path(), 3, 2);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), checkpoint);
  EXPECT_TRUE(passed_over.empty());
  prune_checkpoints(directory.path(), 0);
  EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000003"});
}

TEST(PruneCheckpoints, KeepsTheNewestValidOnes) {
  TemporaryDirectory directory;
  for (const std::int64_t step : {1, 2, 3, 4}) save(directory.path(), step, 1);
  fs::create_directory(directory.path() / "step-00000002.partial");
  test::write_bytes(directory.path() / "notes.txt", "");
  prune_checkpoints(directory.path(), 0);
  EXPECT_EQ(names_in(directory.path()),
            (std::vector<std::string>{"notes.txt", "step-00000001", "step-00000002",
                                      "step-00000003", "step-00000004"}));
  fs::remove(directory.path() / "step-00000003" / "shard-00000-of-00001.h5");
  prune_checkpoints(directory.path(), 2);
  EXPECT_EQ(
      names_in(directory.path()),
      (std::vector<std::string>{"notes.txt", "step-00000002", "step-00000003", "step-00000004"}));
  prune_checkpoints(directory.path(), 1);
  EXPECT_EQ(names_in(directory.path()), (std::vector<std::string>{"notes.txt", "step-00000004"}));
}

}  // namespace
}  // namespace polymoe
