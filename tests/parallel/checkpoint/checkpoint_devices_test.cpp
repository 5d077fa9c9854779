// SPDX-License-Identifier: Apache-2.0
// Checkpoints of tensors on any device, in f32 and bf16: what a file holds does not tell which.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/split_float/split_float.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/copy.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "support/devices.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

constexpr int ranks = 2;

/// A weight with the moments of its optimizer, half of each on either rank.
const Shape weight_shape = {37, 11};
constexpr std::int64_t weight_elements = 37 * 11;

/// The value that a tensor of `dtype` holds.
float held(const std::string& name, std::int64_t i, DType dtype) {
  const auto value = value_of<float>(name, i);
  return dtype == DType::bf16 ? float_of_bf16(split_float(value).high) : value;
}

/// A rank's pieces on a device, parameters in `dtype`, moments in f32.
class Pieces {
 public:
  Pieces(int rank, DType dtype, Device device) : stream_(device) {
    const std::int64_t begin = weight_elements * rank / ranks;
    const std::int64_t end = weight_elements * (rank + 1) / ranks;
    for (const char* kind : {"moment1/w", "moment2/w"}) add(kind, begin, end, DType::f32);
    add("parameter/w", begin, end, dtype);
  }

  void add(const std::string& name, std::int64_t begin, std::int64_t end, DType dtype) {
    memory_.emplace_back(Shape{end - begin}, dtype, stream_.device());
    pieces.push_back({name, weight_shape, begin, *memory_.back()});
  }
  void fill() {
    for (const TensorPiece& piece : pieces) {
      const OwnedTensor values(piece.data.shape(), DType::f32, Device::cpu());
      for (std::int64_t i = 0; i < values->elements(); ++i)
        values->data<float>()[i] = held(piece.name, piece.begin + i, piece.data.dtype());
      const OwnedTensor typed(piece.data.shape(), piece.data.dtype(), Device::cpu());
      convert_values(*values, *typed);
      copy(*typed, piece.data, stream_);
      stream_.synchronize();  // the host memory ends here
    }
  }
  /// Elements that are not what was saved with parameters of `saved`, as this dtype holds it.
  std::int64_t wrong(DType saved) {
    std::int64_t count = 0;
    for (const TensorPiece& piece : pieces) {
      const OwnedTensor typed(piece.data.shape(), piece.data.dtype(), Device::cpu());
      copy(piece.data, *typed, stream_);
      stream_.synchronize();
      const OwnedTensor values(piece.data.shape(), DType::f32, Device::cpu());
      convert_values(*typed, *values);
      const bool parameter = piece.name.starts_with("parameter/");
      for (std::int64_t i = 0; i < values->elements(); ++i) {
        float expected = held(piece.name, piece.begin + i, parameter ? saved : DType::f32);
        if (piece.data.dtype() == DType::bf16) expected = float_of_bf16(split_float(expected).high);
        count += values->data<float>()[i] != expected;
      }
    }
    return count;
  }
  Stream& stream() { return stream_; }

  std::vector<TensorPiece> pieces;

 private:
  Stream stream_;
  std::deque<OwnedTensor> memory_;
};

enum class Way { staged, foreground, plain };

fs::path save_from(Device device, DType dtype, Way way, const fs::path& root) {
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    Pieces mine(world->rank(), dtype, device);
    mine.fill();
    if (way == Way::plain) {
      save_checkpoint(root, info_of(1), mine.pieces, *world, {.stream = &mine.stream()});
      return;
    }
    const std::size_t staging = CheckpointSaver::staging_bytes(mine.pieces);
    CheckpointSaver saver({.root = root, .staging_bytes = way == Way::staged ? staging : 0},
                          world->split(0));
    saver.start(info_of(1), mine.pieces, mine.stream());
    saver.shutdown();
  });
  return root / checkpoint_name(1);
}

std::vector<Placement> all_placements() {
  std::vector<Placement> all = placements();
  all.push_back({DeviceType::cpu, DType::bf16});
  return all;
}

class CheckpointDevices : public OnDevice {};

TEST_P(CheckpointDevices, EverySaveWritesTheBytesThatTheCpuWritesInF32) {
  const TemporaryDirectory directory;
  // The same values, held as f32 on the CPU.
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    Pieces host(world->rank(), DType::f32, Device::cpu());
    for (const TensorPiece& piece : host.pieces) {
      const DType source = piece.name.starts_with("parameter/") ? dtype() : DType::f32;
      for (std::int64_t i = 0; i < piece.data.elements(); ++i)
        piece.data.data<float>()[i] = held(piece.name, piece.begin + i, source);
    }
    save_checkpoint(directory.path() / "host", info_of(1), host.pieces, *world);
  });
  const fs::path host = directory.path() / "host" / checkpoint_name(1);
  int saves = 0;
  for (const Way way : {Way::staged, Way::foreground, Way::plain}) {
    const fs::path saved =
        save_from(device(), dtype(), way, directory.path() / std::to_string(saves++));
    ASSERT_EQ(names_in(saved), names_in(host));
    for (const std::string& name : names_in(host))
      EXPECT_EQ(test::read_bytes(saved / name), test::read_bytes(host / name)) << name;
  }
}

TEST_P(CheckpointDevices, IsReadAsF32AndAsBf16WhereverTheyLie) {
  const TemporaryDirectory directory;
  const fs::path saved = save_from(device(), dtype(), Way::staged, directory.path());
  const CheckpointReader reader(saved);
  for (const DType wanted : {DType::f32, DType::bf16}) {
    for (const Device place : {device(), Device::cpu()}) {
      for (const int rank : {0, 1}) {
        Pieces mine(rank, wanted, place);
        reader.read(mine.pieces, mine.stream());
        EXPECT_EQ(mine.wrong(dtype()), 0) << name_of(wanted) << " on " << name_of(place);
      }
    }
  }
}

TEST_P(CheckpointDevices, ValuesAndTheirMasterComeFromOneTensor) {
  const TemporaryDirectory directory;
  const fs::path saved = save_from(device(), DType::f32, Way::staged, directory.path());
  Pieces mine(1, dtype(), device());
  mine.add("parameter/w", 0, weight_elements, DType::bf16);
  mine.add("parameter/w", 5, 300, DType::f32);
  CheckpointReader(saved).read(mine.pieces, mine.stream());
  EXPECT_EQ(mine.wrong(DType::f32), 0);
}

TEST_P(CheckpointDevices, APieceOfManyPartsArrivesWhole) {
  // One part holds 2^23 elements of f32.
  const std::int64_t elements = 2 * (std::int64_t{1} << 23) + 3;
  const TemporaryDirectory directory;
  OwnedTensor host({elements}, dtype(), Device::cpu());
  for (std::int64_t i = 0; i < elements; ++i) {
    const auto value = static_cast<float>(i % 8191 - 4000 + i / (1 << 23));
    if (dtype() == DType::f32) {
      host->data<float>()[i] = value;
    } else {
      static_cast<std::uint16_t*>(host->raw())[i] = bf16_of_float(value);
    }
  }
  const OwnedTensor there = moved(*host);
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    save_checkpoint(directory.path(), info_of(1), {{"w", {elements}, 0, *there}}, *world,
                    {.stream = &stream()});
  });
  const OwnedTensor back = poisoned({elements}, dtype());
  CheckpointReader(directory.path() / checkpoint_name(1))
      .read({{"w", {elements}, 0, *back}}, stream());
  OwnedTensor read({elements}, dtype(), Device::cpu());
  copy(*back, *read, stream());
  stream().synchronize();
  EXPECT_EQ(std::memcmp(read->raw(), host->raw(), host->bytes()), 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, CheckpointDevices, ::testing::ValuesIn(all_placements()),
                         test::name_of_placement);

std::vector<Placement> bf16_placements() {
  std::vector<Placement> all = all_placements();
  std::erase_if(all, [](const Placement& placement) { return placement.dtype != DType::bf16; });
  return all;
}

class SplitCheckpointDevices : public CheckpointDevices {};
INSTANTIATE_TEST_SUITE_P(Devices, SplitCheckpointDevices, ::testing::ValuesIn(bf16_placements()),
                         test::name_of_placement);

// f32 values in two parts: stored as f32, read back to the bit, and by who holds f32 or bf16.
TEST_P(SplitCheckpointDevices, ValuesInTwoPartsAreStoredWhole) {
  // One part holds 2^23 elements of f32.
  const std::int64_t elements = (std::int64_t{1} << 23) + 1003;
  const TemporaryDirectory directory;
  const OwnedTensor exact({elements}, DType::f32, Device::cpu());
  for (std::int64_t i = 0; i < elements; ++i) {
    const auto bits = static_cast<std::uint32_t>(i) * 2654435761U;
    exact->data<float>()[i] =
        std::isnan(std::bit_cast<float>(bits)) ? 1.0F : std::bit_cast<float>(bits);
  }
  const OwnedTensor there = moved(*exact), high({elements}, DType::bf16, device()),
                    low({elements}, DType::u16, device());
  split_floats(*there, *high, *low, stream());
  for (const bool staged : {false, true}) {
    run_ranks(1, [&](std::unique_ptr<Communicator> world) {
      const std::vector<TensorPiece> pieces = {
          {.name = "w", .shape = {elements}, .begin = 0, .data = *high, .low = *low}};
      CheckpointSaver saver({.root = directory.path(),
                             .staging_bytes = staged ? CheckpointSaver::staging_bytes(pieces) : 0},
                            std::move(world));
      saver.start(info_of(staged ? 2 : 1), pieces, stream());
      saver.wait();
      saver.shutdown();
    });
    const CheckpointReader reader(directory.path() / checkpoint_name(staged ? 2 : 1));
    EXPECT_EQ(reader.manifest().find("w")->dtype, DType::f32);
    const OwnedTensor wide({elements}, DType::f32, Device::cpu());
    reader.read({{"w", {elements}, 0, *wide}});
    EXPECT_EQ(std::memcmp(wide->raw(), exact->raw(), exact->bytes()), 0);
    const OwnedTensor upper = poisoned({elements}, DType::bf16),
                      lower = poisoned({elements}, DType::u16),
                      narrow = poisoned({elements}, DType::bf16);
    reader.read({{.name = "w", .shape = {elements}, .begin = 0, .data = *upper, .low = *lower},
                 {.name = "w", .shape = {elements}, .begin = 0, .data = *narrow}},
                stream());
    const auto same = [&](const Tensor& a, const Tensor& b) {
      std::vector<std::uint16_t> x(static_cast<std::size_t>(elements)), y(x);
      copy(a, Tensor(x.data(), a.shape(), a.dtype(), Device::cpu()), stream());
      copy(b, Tensor(y.data(), b.shape(), b.dtype(), Device::cpu()), stream());
      stream().synchronize();
      return x == y;
    };
    EXPECT_TRUE(same(*upper, *high));
    EXPECT_TRUE(same(*lower, *low));
    EXPECT_TRUE(same(*narrow, *high));
  }
}

TEST(CheckpointValues, StagingHoldsPiecesAsTheyAreHeld) {
  const OwnedTensor narrow({33}, DType::bf16, Device::cpu());  // 66 bytes
  const OwnedTensor wide({3}, DType::f32, Device::cpu());
  EXPECT_EQ(CheckpointSaver::staging_bytes({{"a", {33}, 0, *narrow}, {"b", {3}, 0, *wide}}), 192u);
}

TEST(CheckpointValues, OtherDtypesAreReadIntoTheirOwnAlone) {
  const TemporaryDirectory directory;
  const fs::path reals = save<double>(directory.path() / "f64", 1, 1);
  const fs::path counts = save<std::int64_t>(directory.path() / "i64", 1, 1);
  const fs::path floats = save<float>(directory.path() / "f32", 1, 1);
  const auto error_of = [&](const fs::path& checkpoint, DType wanted) {
    Holding holding;
    holding.add("scalar", {}, wanted, 0, 1);
    return message_of<InputFileError>([&] { CheckpointReader(checkpoint).read(holding.pieces); });
  };
  EXPECT_EQ(error_of(reals, DType::f64), "");
  EXPECT_EQ(error_of(floats, DType::bf16), "");
  EXPECT_NE(error_of(reals, DType::bf16).find("is f64[], expected bf16[]"), std::string::npos);
  EXPECT_NE(error_of(reals, DType::f32).find("is f64[], expected f32[]"), std::string::npos);
  EXPECT_NE(error_of(floats, DType::f64).find("is f32[], expected f64[]"), std::string::npos);
  EXPECT_NE(error_of(floats, DType::f16).find("is f32[], expected f16[]"), std::string::npos);
  EXPECT_NE(error_of(counts, DType::f32).find("is i64[], expected f32[]"), std::string::npos);
}

TEST(CheckpointValues, RoundToTheNearestAndTiesAwayFromZero) {
  const float inf = std::numeric_limits<float>::infinity();
  // 1 + 2^-8 lies between 1 and 1 + 2^-7; the latter plus 2^-8 between two others.
  const std::vector<std::pair<float, float>> known = {{1.0F + 0x1p-8F, 1.0F + 0x1p-7F},
                                                      {-1.0F - 0x1p-8F, -1.0F - 0x1p-7F},
                                                      {1.0F + 0x0.ffp-8F, 1.0F},
                                                      {1.0F + 0x3p-8F, 1.0F + 0x1p-6F},
                                                      {1.0F + 0x1.01p-8F, 1.0F + 0x1p-7F},
                                                      {-0.0F, -0.0F},
                                                      {0x1.ffp127F, inf},
                                                      {-inf, -inf},
                                                      {0x1.fep127F, 0x1.fep127F}};
  for (auto [value, expected] : known) {
    std::uint16_t narrow = 0;
    float back = 1.0F;
    const Tensor from(&value, {1}, DType::f32, Device::cpu());
    const Tensor between(&narrow, {1}, DType::bf16, Device::cpu());
    convert_values(from, between);
    convert_values(between, Tensor(&back, {1}, DType::f32, Device::cpu()));
    EXPECT_EQ(back, expected);
    EXPECT_EQ(std::signbit(back), std::signbit(expected));
  }
}

TEST(CheckpointValues, WhatTheStreamDoesNotReachIsRefused) {
  const TemporaryDirectory directory;
  const CheckpointReader reader(save(directory.path(), 1, 1));
  const Tensor meta(nullptr, {}, DType::f32, Device::meta());
  EXPECT_THROW(reader.read({{"scalar", {}, 0, meta}}), InvalidArgument);
  const Tensor elsewhere(nullptr, {}, DType::f32, Device::cuda(0));
  EXPECT_THROW(reader.read({{"scalar", {}, 0, elsewhere}}), InvalidArgument);
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    const std::string message = message_of<OutputFileError>([&] {
      save_checkpoint(directory.path(), info_of(2), {{"scalar", {}, 0, elsewhere}}, *world);
    });
    EXPECT_NE(message.find("values on cuda:0 with a stream of cpu"), std::string::npos) << message;
  });
}

}  // namespace
}  // namespace polymoe
