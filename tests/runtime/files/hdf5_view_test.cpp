// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/hdf5_view.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/files/hdf5_file.h"
#include "runtime/float16.h"
#include "runtime/random.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using Part = Hdf5ViewWriter::Part;

/// What any program that reads HDF5 sees.
struct Seen {
  std::vector<hsize_t> extents;
  std::vector<float> values;
};

Seen read_with_the_library(const fs::path& path, const std::string& name) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  Seen seen;
  seen.extents.resize(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, seen.extents.data(), nullptr);
  seen.values.assign(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)), -1.0f);
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, seen.values.data()),
            0)
      << name;
  H5Sclose(space);
  H5Dclose(dataset);
  H5Fclose(file);
  return seen;
}

/// Elements [begin, end) of an array whose element i is i, written as a dataset.
Part write_part(Hdf5Writer& file, const std::string& file_name, const std::string& dataset,
                std::int64_t begin, std::int64_t end) {
  const OwnedTensor values({end - begin}, DType::f32, Device::cpu());
  std::iota(values->data<float>(), values->data<float>() + (end - begin),
            static_cast<float>(begin));
  file.write(dataset, *values);
  return {.file = file_name, .dataset = dataset, .begin = begin, .count = end - begin};
}

TEST(Hdf5View, ShowsBf16AsTheFloatsThatTheyAre) {
  const test::TemporaryDirectory directory;
  const std::vector<float> values = {1.0f, -0x1.02p0f, 0.0f, 0x1.fep127f, 0x1p-126f, 0x1p-133f};
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(bf16_of_float(value));
  const auto count = static_cast<std::int64_t>(bits.size());
  {
    Hdf5Writer shard(directory.path() / "shard.h5");
    shard.write("a", Tensor(bits.data(), {count}, DType::bf16, Device::cpu()));
    shard.close();
    Hdf5ViewWriter view(directory.path() / "view.h5");
    const Part there{.file = "shard.h5", .dataset = "a", .begin = 0, .count = count};
    Part missing = there;
    missing.file = "none.h5";
    view.add("/values", {2, count / 2}, DType::bf16, {there});
    view.add("/missing", {count}, DType::bf16, {missing});
    view.close();
  }
  EXPECT_EQ(read_with_the_library(directory.path() / "shard.h5", "a").values, values);
  EXPECT_EQ(read_with_the_library(directory.path() / "view.h5", "/values").values, values);
  for (const float value : read_with_the_library(directory.path() / "view.h5", "/missing").values)
    EXPECT_TRUE(std::isnan(value));
}

TEST(Hdf5View, ShowsArraysWhereverTheyAreCut) {
  const test::TemporaryDirectory directory;
  const std::vector<Shape> shapes = {{},           {1},          {17},        {5, 7},
                                     {1, 9},       {9, 1},       {4, 3, 5},   {1, 1, 6},
                                     {3, 2, 4, 5}, {2, 1, 3, 1}, {2, 3, 1, 7}};
  const RandomStream random(1, "cuts");
  std::uint64_t next = 0;
  std::vector<std::pair<std::string, Shape>> added;
  {
    Hdf5Writer first(directory.path() / "first.h5"), second(directory.path() / "second.h5");
    Hdf5ViewWriter view(directory.path() / "view.h5");
    for (const Shape& shape : shapes) {
      const std::int64_t elements = shape.elements();
      for (int cuts = 0; cuts < 6; ++cuts) {
        std::vector<std::int64_t> at = {0, elements};
        for (int cut = 0; cut < cuts; ++cut)
          at.push_back(static_cast<std::int64_t>(random.bits(next++) %
                                                 static_cast<std::uint64_t>(elements)));
        std::sort(at.begin(), at.end());
        const std::string name = "/arrays/" + std::to_string(added.size()) + "/values";
        std::vector<Part> parts;
        for (std::size_t i = 0; i + 1 < at.size(); ++i) {
          if (at[i] == at[i + 1]) continue;
          const bool odd = i % 2 == 1;
          parts.push_back(write_part(odd ? second : first, odd ? "second.h5" : "first.h5",
                                     name.substr(1) + ":" + std::to_string(at[i]), at[i],
                                     at[i + 1]));
        }
        view.add(name, shape, DType::f32, parts);
        added.emplace_back(name, shape);
      }
    }
    first.close();
    second.close();
    view.close();
  }
  for (const auto& [name, shape] : added) {
    const Seen seen = read_with_the_library(directory.path() / "view.h5", name);
    std::vector<hsize_t> extents;
    for (int i = 0; i < shape.rank(); ++i) extents.push_back(static_cast<hsize_t>(shape[i]));
    if (extents.empty()) extents = {1};
    EXPECT_EQ(seen.extents, extents) << name;
    std::vector<float> expected(static_cast<std::size_t>(shape.elements()));
    std::iota(expected.begin(), expected.end(), 0.0f);
    EXPECT_EQ(seen.values, expected) << name << " " << to_string(shape);
  }
}

TEST(Hdf5View, FindsItsFilesWhereverItIsMovedTo) {
  const test::TemporaryDirectory directory;
  const fs::path there = directory.path() / "there";
  fs::create_directory(there);
  Hdf5Writer file(there / "values.h5");
  const Part part = write_part(file, "values.h5", "a", 0, 6);
  file.close();
  Hdf5ViewWriter view(there / "view.h5");
  view.add("/a", {2, 3}, DType::f32, {part});
  view.close();
  fs::rename(there, directory.path() / "elsewhere");
  EXPECT_EQ(read_with_the_library(directory.path() / "elsewhere" / "view.h5", "/a").values,
            (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(Hdf5View, AMissingFileShowsAsNaNAndNotAsZeros) {
  const test::TemporaryDirectory directory;
  Hdf5Writer file(directory.path() / "here.h5");
  const Part part = write_part(file, "here.h5", "a", 0, 4);
  file.close();
  Hdf5ViewWriter view(directory.path() / "view.h5");
  view.add("/a", {2, 3}, DType::f32,
           {part, {.file = "gone.h5", .dataset = "a", .begin = 4, .count = 2}});
  view.close();
  const std::vector<float> values =
      read_with_the_library(directory.path() / "view.h5", "/a").values;
  EXPECT_EQ(values[3], 3.0f);
  EXPECT_TRUE(std::isnan(values[4]) && std::isnan(values[5]));
}

TEST(Hdf5View, EmptyArraysAndTakenNames) {
  const test::TemporaryDirectory directory;
  Hdf5ViewWriter view(directory.path() / "view.h5");
  view.add("/empty", {0, 9}, DType::f32, {});
  EXPECT_THROW(view.add("/empty", {1}, DType::f32, {}), InvalidArgument);
  EXPECT_THROW(view.add("/empty/below", {1}, DType::f32, {}), Error);
  EXPECT_THROW(view.add("/other", {1}, DType::u8, {}), InvalidArgument);
  view.close();
  EXPECT_EQ(read_with_the_library(directory.path() / "view.h5", "/empty").extents,
            (std::vector<hsize_t>{0, 9}));
  EXPECT_THROW(Hdf5ViewWriter(directory.path() / "none" / "view.h5"), OutputFileError);
}

}  // namespace
}  // namespace polymoe
