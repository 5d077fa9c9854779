// SPDX-License-Identifier: Apache-2.0
// Ranks that open a checkpoint together: each hashes its share, and all end alike.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

/// What each of `ranks` ranks throws when they open the checkpoint together and read it.
std::vector<std::string> errors_of(const fs::path& checkpoint, int ranks) {
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    errors[static_cast<std::size_t>(world->rank())] = message_of<InputFileError>([&] {
      const CheckpointReader reader(checkpoint, *world);
      Holding holding = slices(world->rank(), ranks, DType::f32);
      reader.read(holding.pieces);
      EXPECT_EQ(wrong_values<float>(holding), 0);
    });
    world->barrier();  // nobody is left behind in an operation
  });
  return errors;
}

void flip_last_bit(const fs::path& file) {
  std::string bytes = test::read_bytes(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_bytes(file, bytes);
}

TEST(CollectiveReader, ReadsWhatAnyLayoutSaved) {
  const TemporaryDirectory directory;
  for (const int writers : {1, 2, 4}) {
    const fs::path checkpoint = save(directory.path(), writers, writers);
    for (const int readers : {1, 2, 3, 4})
      EXPECT_EQ(errors_of(checkpoint, readers),
                std::vector<std::string>(static_cast<std::size_t>(readers)));
  }
}

TEST(CollectiveReader, ADamagedFileIsFoundByAllWhoeverHashesIt) {
  const TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 4);
  for (const std::string& name : names_in(checkpoint)) {
    const std::string whole = test::read_bytes(checkpoint / name);
    flip_last_bit(checkpoint / name);
    for (const int readers : {1, 2, 4}) {
      for (const std::string& error : errors_of(checkpoint, readers))
        EXPECT_NE(error.find((checkpoint / name).string() + ": "), std::string::npos) << error;
    }
    fs::remove(checkpoint / name);
    for (const std::string& error : errors_of(checkpoint, 2))
      EXPECT_NE(error.find(name + ": cannot open"), std::string::npos) << error;
    test::write_bytes(checkpoint / name, whole);
  }
  // Of two, all name the same.
  flip_last_bit(checkpoint / shard_name(1, 4));
  flip_last_bit(checkpoint / shard_name(2, 4));
  for (const std::string& error : errors_of(checkpoint, 4))
    EXPECT_NE(error.find("shard-00001-of-00004.h5: is damaged"), std::string::npos) << error;
}

TEST(CollectiveReader, EachRankHashesItsShareAlone) {
  const TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 2);
  // Rank 1 of 2 hashes the second shard. That the first is not hashed there again shows where it
  // is damaged after the opening.
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const CheckpointReader reader(checkpoint, *world);
    world->barrier();
    if (world->rank() == 0) {
      std::string bytes = test::read_bytes(checkpoint / shard_name(0, 2));
      bytes.back() = static_cast<char>(bytes.back() ^ 1);
      test::write_bytes(checkpoint / shard_name(0, 2), bytes);
    }
    world->barrier();
    EXPECT_NO_THROW(reader.verify_hashes());
    EXPECT_THROW(CheckpointReader(checkpoint).verify_hashes(), InputFileError);
  });
}

TEST(CollectiveReader, RanksThatSeeOtherFilesFindOut) {
  const TemporaryDirectory directory;
  std::vector<fs::path> there;
  for (const int step : {1, 2}) there.push_back(save(directory.path(), step, 2));
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const fs::path& mine = there[static_cast<std::size_t>(world->rank())];
    const std::string error = message_of<InputFileError>([&] { CheckpointReader(mine, *world); });
    EXPECT_NE(error.find("is not the same on all ranks"), std::string::npos) << error;
  });
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const fs::path mine = world->rank() == 0 ? there[0] : directory.path() / "none";
    const std::string error = message_of<InputFileError>([&] { CheckpointReader(mine, *world); });
    EXPECT_NE(error.find("none/manifest.json: cannot open"), std::string::npos) << error;
  });
}

TEST(CollectiveReader, TheNewestIsFoundTogether) {
  const TemporaryDirectory directory;
  const auto found_by = [&](int ranks, std::vector<std::string>& passed_over) {
    std::vector<fs::path> found(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      std::vector<std::string> lines;
      const auto newest = open_newest_checkpoint(directory.path(), lines, *world);
      if (newest) found[static_cast<std::size_t>(world->rank())] = newest->directory();
      if (world->rank() == ranks - 1) passed_over = lines;
    });
    for (const fs::path& path : found) EXPECT_EQ(path, found[0]);
    return found[0];
  };
  std::vector<std::string> passed_over;
  EXPECT_EQ(found_by(2, passed_over), "");
  const fs::path good = save(directory.path(), 1, 2);
  flip_last_bit(save(directory.path(), 2, 2) / shard_name(1, 2));
  fs::create_directory(directory.path() / "step-00000003.partial");
  for (const int ranks : {1, 2, 4}) {
    EXPECT_EQ(found_by(ranks, passed_over), good);
    std::vector<std::string> alone;
    EXPECT_EQ(newest_checkpoint(directory.path(), alone), good);
    EXPECT_EQ(passed_over, alone);
    EXPECT_EQ(passed_over.size(), 2u);
  }
}

// The blocks of a file that is read and hashed in one pass hold 2^20 bytes.
TEST(OnePass, WantedRangesAreWholeWhereverBlocksEnd) {
  const TemporaryDirectory directory;
  const std::int64_t elements = 3 * (std::int64_t{1} << 18) + 17;
  std::vector<float> values(static_cast<std::size_t>(elements));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  CheckpointInfo info = info_of(1);
  // An odd number of bf16 puts what follows at half an element's distance.
  write_checkpoint(
      directory.path(), info,
      [&](int) {
        std::vector<TensorPiece> pieces;
        for (const auto& [name, count, dtype] :
             {std::tuple("a", std::int64_t{100'001}, DType::bf16),
              {"b", elements, DType::f32},
              {"c", std::int64_t{3}, DType::f32},
              {"d", elements, DType::f64}}) {
          pieces.push_back({name, {count}, 0, Tensor(nullptr, {count}, dtype, Device::meta())});
        }
        return pieces;
      },
      [&](const TensorPiece& piece) {
        const std::int64_t count = piece.data.elements();
        for (std::int64_t i = 0; i < count && piece.data.dtype() == DType::f64; ++i)
          piece.data.data<double>()[i] = static_cast<double>(i);
        const Tensor source(values.data(), {count}, DType::f32, Device::cpu());
        if (piece.data.dtype() != DType::f64) convert_values(source, piece.data);
      });
  const fs::path checkpoint = directory.path() / checkpoint_name(1);
  const CheckpointReader reader(checkpoint);
  const auto offset_of = [&](const char* name) {
    return reader.manifest().find(name)->pieces[0].offset;
  };
  EXPECT_TRUE(offset_of("b") % 4 != 0 || offset_of("c") % 4 != 0 || offset_of("d") % 8 != 0)
      << "nothing is misaligned";
  for (const bool verified : {false, true}) {
    const CheckpointReader again(checkpoint);
    if (verified) again.verify_hashes();
    Holding holding;
    std::vector<std::int64_t> begins;
    const auto want = [&](const char* name, std::int64_t of, std::int64_t begin, std::int64_t end,
                          DType dtype) {
      holding.add(name, {of}, dtype, begin, end);
      begins.push_back(begin);
    };
    want("a", 100'001, 1, 100'000, DType::f32);
    want("b", elements, 0, elements, DType::f32);
    want("b", elements, 200'000, 300'001, DType::f32);
    want("c", 3, 0, 3, DType::f32);
    want("d", elements, 131'000, 400'000, DType::f64);
    again.read(holding.pieces);
    std::vector<double> read;
    for (std::size_t piece = 0; piece < holding.pieces.size(); ++piece) {
      to_doubles(holding.pieces[piece].data, read);
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < read.size(); ++i) {
        auto expected = static_cast<float>(begins[piece] + static_cast<std::int64_t>(i));
        if (piece == 0) expected = float_of_bf16(split_float(expected).high);
        wrong += read[i] != static_cast<double>(expected);
      }
      EXPECT_EQ(wrong, 0) << piece;
    }
  }
}

}  // namespace
}  // namespace polymoe
