// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/hdf5_view.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/files/hdf5_library.h"
#include "runtime/tensor.h"

// Newer libraries keep this version's functions under these names.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <limits>

#include "runtime/error.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

using Extents = std::array<hsize_t, Shape::max_rank>;

/// A block of an array whose elements follow one another in memory.
struct Box {
  Extents start{};
  Extents count{};
  hsize_t elements = 0;
};

/// Cuts elements [begin, end) of an array into boxes, in order: at most two per dimension, and one.
/// `box` holds the indices of the dimensions before `dimension`; begin and end count from there.
void append_boxes(const Shape& shape, int dimension, Box box, std::int64_t begin, std::int64_t end,
                  std::vector<Box>& boxes) {
  if (begin == end) return;
  std::int64_t row = 1;
  for (int i = dimension + 1; i < shape.rank(); ++i) row *= shape[i];
  const auto at = static_cast<std::size_t>(dimension);
  const std::int64_t first_whole = divide_up(begin, row);
  const std::int64_t behind_whole = end / row;
  const auto part_of_row = [&](std::int64_t index, std::int64_t from, std::int64_t to) {
    Box inner = box;
    inner.start[at] = static_cast<hsize_t>(index);
    inner.count[at] = 1;
    append_boxes(shape, dimension + 1, inner, from - index * row, to - index * row, boxes);
  };
  if (begin < first_whole * row) {
    part_of_row(first_whole - 1, begin, std::min(end, first_whole * row));
  }
  if (first_whole < behind_whole) {
    Box whole = box;
    whole.start[at] = static_cast<hsize_t>(first_whole);
    whole.count[at] = static_cast<hsize_t>(behind_whole - first_whole);
    for (int i = dimension + 1; i < shape.rank(); ++i) {
      whole.start[static_cast<std::size_t>(i)] = 0;
      whole.count[static_cast<std::size_t>(i)] = static_cast<hsize_t>(shape[i]);
    }
    whole.elements = static_cast<hsize_t>((behind_whole - first_whole) * row);
    boxes.push_back(whole);
  }
  if (first_whole <= behind_whole && behind_whole * row < end) {
    part_of_row(behind_whole, behind_whole * row, end);
  }
}

/// Elements that no file provides read as NaN, so that a missing shard is not taken for zeros.
bool set_fill_value(const Hdf5Handle& creation, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f64 && dtype != DType::bf16) return true;
  const double fill = std::numeric_limits<double>::quiet_NaN();
  return H5Pset_fill_value(creation.id(), H5T_NATIVE_DOUBLE, &fill) >= 0;
}

/// Groups and datasets of the newer format take a tenth of the space of the older one's.
Hdf5Handle compact_access() {
  Hdf5Handle access = hdf5_file_access();
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  return access;
}

}  // namespace

Hdf5ViewWriter::Hdf5ViewWriter(const std::filesystem::path& path) : path_(path) {
  prepare_hdf5();
  file_ = create_hdf5_file(path, compact_access());
}

void Hdf5ViewWriter::add(const std::string& name, const Shape& shape, DType dtype,
                         const std::vector<Part>& parts) {
  make_hdf5_groups(path_, file_, name);
  const Shape full = shape.rank() == 0 ? Shape{1} : shape;
  Extents extents{};
  for (int i = 0; i < full.rank(); ++i) {
    extents[static_cast<std::size_t>(i)] = static_cast<hsize_t>(full[i]);
  }
  const auto require = [&](bool done) {
    if (!done) throw OutputFileError(path_.string(), "cannot add " + name + ": " + hdf5_reason());
  };
  const Hdf5Handle space(H5Screate_simple(full.rank(), extents.data(), nullptr), H5Sclose);
  const Hdf5Handle creation = hdf5_properties(H5P_DATASET_CREATE);
  require(space.valid() && creation.valid());
  H5Pset_obj_track_times(creation.id(), false);
  if (!parts.empty()) require(set_fill_value(creation, dtype));
  std::vector<Box> boxes;
  for (const Part& part : parts) {
    const auto count = static_cast<hsize_t>(part.count);
    const Hdf5Handle source(H5Screate_simple(1, &count, nullptr), H5Sclose);
    boxes.clear();
    append_boxes(full, 0, {}, part.begin, part.begin + part.count, boxes);
    hsize_t next = 0;
    for (const Box& box : boxes) {
      require(H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, box.start.data(), nullptr,
                                  box.count.data(), nullptr) >= 0 &&
              H5Sselect_hyperslab(source.id(), H5S_SELECT_SET, &next, nullptr, &box.elements,
                                  nullptr) >= 0 &&
              H5Pset_virtual(creation.id(), space.id(), part.file.c_str(), part.dataset.c_str(),
                             source.id()) >= 0);
      next += box.elements;
    }
  }
  require(H5Sselect_all(space.id()) >= 0);
  Hdf5Handle dataset(H5Dcreate2(file_.id(), name.c_str(), hdf5_type(dtype), space.id(), H5P_DEFAULT,
                                creation.id(), H5P_DEFAULT),
                     H5Dclose);
  require(dataset.valid() && dataset.reset());
}

void Hdf5ViewWriter::close() { close_hdf5_file(path_, file_); }

}  // namespace polymoe
