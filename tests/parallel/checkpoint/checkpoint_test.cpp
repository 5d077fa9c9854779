// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

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
                                      "shard-00001-of-00002.h5", "view.h5"}));
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

TEST(Checkpoint, NothingIsCommittedThatWouldNotReadBack) {
  TemporaryDirectory directory;
  std::string deep = "1";
  for (int i = 0; i < 20; ++i) deep = "{\"a\":[" + deep + "]}";
  std::vector<CheckpointInfo> infos(4, info_of(1));
  infos[0].config = "path = \xff";
  infos[1].state = "[1]";
  infos[2].state = deep;
  infos[3].tokens = -1;
  for (const CheckpointInfo& info : infos) {
    run_ranks(2, [&](std::unique_ptr<Communicator> world) {
      const Holding holding = slices(world->rank(), 2, DType::f32);
      EXPECT_THROW(save_checkpoint(directory.path(), info, holding.pieces, *world),
                   OutputFileError);
    });
    EXPECT_TRUE(fs::is_empty(directory.path()));
  }
}

TEST(Checkpoint, TheSameStateGivesTheSameBytes) {
  TemporaryDirectory directory;
  const fs::path a = save(directory.path() / "a", 1, 2), b = save(directory.path() / "b", 1, 2);
  for (const std::string& name : names_in(a)) {
    EXPECT_EQ(test::read_bytes(a / name), test::read_bytes(b / name)) << name;
  }
}

TEST(Checkpoint, OneProcessWritesTheBytesThatRanksWrite) {
  TemporaryDirectory directory;
  const fs::path a = save(directory.path() / "a", 1, 4);
  CheckpointInfo info = info_of(1);
  info.ranks = info.expert_parallel = 4;
  const auto pieces_of = [](int rank) {
    std::vector<TensorPiece> pieces = slices(rank, 4, DType::f32).pieces;
    for (TensorPiece& piece : pieces)
      piece.data = Tensor(nullptr, piece.data.shape(), DType::f32, Device::meta());
    return pieces;
  };
  write_checkpoint(directory.path() / "b", info, pieces_of, [](const TensorPiece& piece) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i)
      piece.data.data<float>()[i] = value_of<float>(piece.name, piece.begin + i);
  });
  const fs::path b = directory.path() / "b" / checkpoint_name(1);
  ASSERT_EQ(names_in(a), names_in(b));
  for (const std::string& name : names_in(a))
    EXPECT_EQ(test::read_bytes(a / name), test::read_bytes(b / name)) << name;

  const auto fail = [](const TensorPiece&) { throw InputFileError("there", "is damaged"); };
  EXPECT_THROW(write_checkpoint(directory.path() / "c", info, pieces_of, fail), InputFileError);
  EXPECT_TRUE(names_in(directory.path() / "c").empty());
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
  EXPECT_EQ(wrong_after_reading(save(directory.path(), 6, 2)), 0);  // once there is room
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
  EXPECT_EQ(names_in(checkpoint).size(), 4u);
  EXPECT_EQ(wrong_after_reading(checkpoint), 0);
}

}  // namespace
}  // namespace polymoe
