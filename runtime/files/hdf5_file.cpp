// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/hdf5_file.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/files/hdf5_library.h"
#include "runtime/tensor.h"

// Newer libraries keep this version's functions under these names.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {

namespace {

/// Access to a new file of the oldest format, which Hdf5Reader holds files to.
Hdf5Handle oldest_format() {
  Hdf5Handle access = hdf5_file_access();
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
  return access;
}

/// The first 96 bytes of a file of that format: signature, versions and sizes, flags, four
/// addresses, the entry of the root group. Older than extensions, cache images, shared messages and
/// paged space, whose code in the library a file can then not reach.
/// Source: HDF5 File Format Specification 3.0, II.A, superblock version 0.
constexpr std::size_t superblock_bytes = 96;
constexpr std::array<unsigned char, 24> superblock_begin = {
    0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n',  // signature
    0,    0,   0,   0,   0,    8,    8,    0,     // versions, sizes of offsets and lengths
    4,    0,   16,  0,   0,    0,    0,    0};    // nodes of groups, flags

/// What the library would believe. Throws InputFileError.
void check_superblock(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto require = [&](bool fits, const char* what) {
    if (!fits) throw InputFileError(path.string(), std::string("cannot open as HDF5: ") + what);
  };
  require(file.bytes() >= static_cast<std::int64_t>(superblock_bytes), "it is too short");
  require(std::memcmp(file.data(), superblock_begin.data(), superblock_begin.size()) == 0,
          "it does not begin as a shard does");
  const auto address_at = [&](std::size_t offset) {
    std::uint64_t address = 0;
    for (std::size_t i = 8; i-- > 0;)
      address = address << 8 | std::to_integer<std::uint64_t>(file.data()[offset + i]);
    return address;
  };
  constexpr std::uint64_t none = ~std::uint64_t{0};
  require(address_at(24) == 0, "it has a base address");
  require(address_at(32) == none, "it has an index of free space");
  require(address_at(40) == static_cast<std::uint64_t>(file.bytes()),
          "its size is not the one that it was closed with");
  require(address_at(48) == none, "it names a driver");
  require(address_at(64) < static_cast<std::uint64_t>(file.bytes()),
          "its root lies behind its end");
}

}  // namespace

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path)
    : path_(path), file_(create_hdf5_file(path, oldest_format())) {}

std::int64_t Hdf5Writer::write(const std::string& name, const Tensor& values) {
  return write(name, values.dtype(), values.elements(),
               [&](const WritePart& write_part) { write_part(values); });
}

std::int64_t Hdf5Writer::write(const std::string& name, DType dtype, std::int64_t count,
                               const std::function<void(const WritePart& write)>& values) {
  prepare_hdf5();
  const std::int64_t type = hdf5_type(dtype);
  if (count == 0) throw InvalidArgument("dataset " + name + " has no elements");
  const auto fail = [&](const std::string& what) {
    throw OutputFileError(path_.string(), what + " " + name + ": " + hdf5_reason());
  };

  make_hdf5_groups(path_, file_, name);
  const auto extent = static_cast<hsize_t>(count);
  const Hdf5Handle space(H5Screate_simple(1, &extent, nullptr), H5Sclose);
  const Hdf5Handle creation = hdf5_properties(H5P_DATASET_CREATE);
  H5Pset_layout(creation.id(), H5D_CONTIGUOUS);
  H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(creation.id(), false);
  Hdf5Handle dataset(H5Dcreate2(file_.id(), name.c_str(), type, space.id(), H5P_DEFAULT,
                                creation.id(), H5P_DEFAULT),
                     H5Dclose);
  if (!dataset.valid()) fail("cannot create dataset");
  std::int64_t done = 0;
  values([&](const Tensor& part) {
    if (part.device().type != DeviceType::cpu || part.dtype() != dtype ||
        part.elements() > count - done) {
      throw InvalidArgument("dataset " + name + " of " + std::to_string(count) + " elements of " +
                            name_of(dtype) + " in memory of the cpu: after " +
                            std::to_string(done) + " come " + std::to_string(part.elements()) +
                            " of " + name_of(part.dtype()) + " on " + name_of(part.device()));
    }
    if (part.elements() == 0) return;
    const auto first = static_cast<hsize_t>(done);
    const auto size = static_cast<hsize_t>(part.elements());
    const Hdf5Handle memory(H5Screate_simple(1, &size, nullptr), H5Sclose);
    prepare_hdf5();
    if (H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, &first, nullptr, &size, nullptr) < 0 ||
        H5Dwrite(dataset.id(), type, memory.id(), space.id(), H5P_DEFAULT, part.raw()) < 0) {
      fail("cannot write dataset");
    }
    done += part.elements();
  });
  if (done != count) {
    throw InvalidArgument("dataset " + name + " of " + std::to_string(count) + " elements got " +
                          std::to_string(done));
  }
  const haddr_t offset = H5Dget_offset(dataset.id());
  if (offset == HADDR_UNDEF) fail("cannot find dataset");
  if (!dataset.reset()) fail("cannot close dataset");
  return static_cast<std::int64_t>(offset);
}

void Hdf5Writer::close() { close_hdf5_file(path_, file_); }

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path) : path_(path) {
  check_superblock(path);
  file_bytes_ = size_of_file(path);
  prepare_hdf5();
  const Hdf5Handle access = hdf5_file_access();
  file_ = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose};
  if (!file_.valid()) fail("cannot open as HDF5");
}

void Hdf5Reader::fail(const std::string& what) const {
  throw InputFileError(path_.string(), what + ": " + hdf5_reason());
}

std::vector<std::string> Hdf5Reader::datasets() const {
  prepare_hdf5();
  std::vector<std::string> names;
  // Visits hard links only, each object once.
  const herr_t status = H5Ovisit(
      file_.id(), H5_INDEX_NAME, H5_ITER_INC,
      [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
        try {
          if (info->type == H5O_TYPE_DATASET) {
            static_cast<std::vector<std::string>*>(out)->emplace_back(name);
          }
          return 0;
        } catch (...) {
          return -1;  // no exception may pass through the C library
        }
      },
      &names);
  if (status < 0) fail("cannot list the datasets");
  std::sort(names.begin(), names.end());
  return names;
}

Hdf5Handle Hdf5Reader::open_dataset(const std::string& name) const {
  prepare_hdf5();
  for (std::size_t slash = 0; slash != std::string::npos;) {
    slash = name.find('/', slash + 1);
    const std::string path = name.substr(0, slash);
    H5L_info_t link;
    if (H5Lget_info(file_.id(), path.c_str(), &link, H5P_DEFAULT) < 0) {
      fail("no dataset " + name);
    }
    if (link.type != H5L_TYPE_HARD) {
      throw InputFileError(path_.string(), path + " is a link to elsewhere");
    }
  }
  Hdf5Handle dataset(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) fail("no dataset " + name);
  const Hdf5Handle creation(H5Dget_create_plist(dataset.id()), H5Pclose);
  if (!creation.valid() || H5Pget_layout(creation.id()) != H5D_CONTIGUOUS ||
      H5Pget_external_count(creation.id()) != 0) {
    throw InputFileError(path_.string(), "dataset " + name + " is not stored in one piece here");
  }
  return dataset;
}

Hdf5Reader::Dataset Hdf5Reader::describe(const Hdf5Handle& dataset, const std::string& name) const {
  const Hdf5Handle space(H5Dget_space(dataset.id()), H5Sclose);
  hsize_t count = 0;
  if (!space.valid() || H5Sget_simple_extent_ndims(space.id()) != 1 ||
      H5Sget_simple_extent_dims(space.id(), &count, nullptr) != 1) {
    throw InputFileError(path_.string(), "dataset " + name + " has not one dimension");
  }
  const Hdf5Handle type(H5Dget_type(dataset.id()), H5Tclose);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64}) {
    if (type.valid() && H5Tequal(type.id(), hdf5_type(dtype)) > 0) {
      return {dtype, static_cast<std::int64_t>(count),
              storage_of(dataset, name, count, size_of(dtype))};
    }
  }
  throw InputFileError(path_.string(), "dataset " + name +
                                           " has an unexpected type; expected are f32, f64, "
                                           "bf16, i32 and i64");
}

/// Where its elements begin. Elements that are nowhere would read as zeros.
std::int64_t Hdf5Reader::storage_of(const Hdf5Handle& dataset, const std::string& name,
                                    std::uint64_t count, std::uint64_t element_bytes) const {
  const haddr_t offset = H5Dget_offset(dataset.id());
  const hsize_t bytes = H5Dget_storage_size(dataset.id());
  if (offset == HADDR_UNDEF || bytes / element_bytes != count || bytes % element_bytes != 0 ||
      offset > file_bytes_ || bytes > file_bytes_ - offset) {
    throw InputFileError(path_.string(), "dataset " + name + " has not all its elements here");
  }
  return static_cast<std::int64_t>(offset);
}

Hdf5Reader::Dataset Hdf5Reader::describe(const std::string& name) const {
  return describe(open_dataset(name), name);
}

void Hdf5Reader::read(const std::string& name, std::int64_t begin, const Tensor& out) const {
  if (out.device().type != DeviceType::cpu) {
    throw InvalidArgument("dataset " + name + " cannot be read to " + name_of(out.device()));
  }
  const Hdf5Handle dataset = open_dataset(name);
  const Dataset found = describe(dataset, name);
  if (found.dtype != out.dtype()) {
    throw InputFileError(path_.string(), "dataset " + name + " is " + name_of(found.dtype) +
                                             ", expected " + name_of(out.dtype()));
  }
  if (begin < 0 || begin > found.count || out.elements() > found.count - begin) {
    throw InputFileError(path_.string(), "dataset " + name + " has " + std::to_string(found.count) +
                                             " elements; wanted are " +
                                             std::to_string(out.elements()) + " from " +
                                             std::to_string(begin) + " on");
  }
  if (out.elements() == 0) return;
  const auto first = static_cast<hsize_t>(begin);
  const auto count = static_cast<hsize_t>(out.elements());
  const Hdf5Handle memory(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Hdf5Handle space(H5Dget_space(dataset.id()), H5Sclose);
  if (H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, &first, nullptr, &count, nullptr) < 0 ||
      H5Dread(dataset.id(), hdf5_type(out.dtype()), memory.id(), space.id(), H5P_DEFAULT,
              out.raw()) < 0) {
    fail("cannot read dataset " + name);
  }
}

}  // namespace polymoe
