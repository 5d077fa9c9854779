// SPDX-License-Identifier: Apache-2.0
#include "runtime/hdf5_file.h"

// Newer libraries keep this version's functions under these names.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "runtime/error.h"

namespace polymoe {
namespace {

/// Before every use: errors come back as values, nothing is printed, and nothing runs at exit (the
/// library's exit handler crashes after a failed write). The error stack is one per thread.
void prepare_library() {
  static std::once_flag once;
  std::call_once(once, [] { H5dont_atexit(); });
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

/// The innermost entry of this thread's error stack.
std::string library_reason() {
  std::string reason;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned position, const H5E_error2_t* entry, void* out) -> herr_t {
        if (position == 0 && entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
        return 0;
      },
      &reason);
  H5Eclear2(H5E_DEFAULT);
  // A failed system call is described over several lines with addresses; its message is enough.
  const std::string key = "error message = '";
  const std::size_t begin = reason.find(key);
  if (begin != std::string::npos) {
    reason = reason.substr(begin + key.size());
    reason.resize(std::min(reason.size(), reason.find('\'')));
  }
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  return reason.empty() ? "HDF5 gives no reason" : reason;
}

hid_t native_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_NATIVE_FLOAT;
    case DType::f64:
      return H5T_NATIVE_DOUBLE;
    case DType::i32:
      return H5T_NATIVE_INT32;
    case DType::i64:
      return H5T_NATIVE_INT64;
    default:
      throw InvalidArgument(std::string("a dataset of ") + name_of(dtype) +
                            "; allowed are f32, f64, i32 and i64");
  }
}

Hdf5Handle property_list(hid_t kind) { return {H5Pcreate(kind), H5Pclose}; }

/// Access to files without locks: they fail on some network file systems, and a shard has one
/// writer and no reader until it is committed.
Hdf5Handle file_access() {
  Hdf5Handle access = property_list(H5P_FILE_ACCESS);
  H5Pset_file_locking(access.id(), false, true);
  H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG);
  return access;
}

}  // namespace

Hdf5Handle::Hdf5Handle(Hdf5Handle&& other) noexcept
    : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

bool Hdf5Handle::reset() {
  if (id_ < 0) return true;
  prepare_library();
  return close_(std::exchange(id_, -1)) >= 0;
}

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path) : path_(path) {
  prepare_library();
  const Hdf5Handle creation = property_list(H5P_FILE_CREATE);
  H5Pset_obj_track_times(creation.id(), false);
  const Hdf5Handle access = file_access();
  file_ = {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose};
  if (!file_.valid()) throw OutputFileError(path.string(), "cannot create: " + library_reason());
}

void Hdf5Writer::write(const std::string& name, const Tensor& values) {
  prepare_library();
  const hid_t type = native_type(values.dtype());
  if (values.device().type != DeviceType::cpu) {
    throw InvalidArgument("dataset " + name + " is on " + name_of(values.device()) +
                          "; only memory of the cpu is written");
  }
  if (values.elements() == 0) throw InvalidArgument("dataset " + name + " has no elements");
  const auto fail = [&](const std::string& what) {
    throw OutputFileError(path_.string(), what + " " + name + ": " + library_reason());
  };

  for (std::size_t slash = name.find('/'); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    const htri_t exists = H5Lexists(file_.id(), group.c_str(), H5P_DEFAULT);
    if (exists < 0) fail("cannot make the groups of");
    if (exists > 0) continue;
    const Hdf5Handle creation = property_list(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation.id(), false);
    const Hdf5Handle made(
        H5Gcreate2(file_.id(), group.c_str(), H5P_DEFAULT, creation.id(), H5P_DEFAULT), H5Gclose);
    if (!made.valid()) fail("cannot make the groups of");
  }
  if (H5Lexists(file_.id(), name.c_str(), H5P_DEFAULT) > 0) {
    throw InvalidArgument("dataset " + name + " is written twice");
  }

  const auto count = static_cast<hsize_t>(values.elements());
  const Hdf5Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Hdf5Handle creation = property_list(H5P_DATASET_CREATE);
  H5Pset_layout(creation.id(), H5D_CONTIGUOUS);
  H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(creation.id(), false);
  Hdf5Handle dataset(H5Dcreate2(file_.id(), name.c_str(), type, space.id(), H5P_DEFAULT,
                                creation.id(), H5P_DEFAULT),
                     H5Dclose);
  if (!dataset.valid()) fail("cannot create dataset");
  if (H5Dwrite(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.raw()) < 0) {
    fail("cannot write dataset");
  }
  if (!dataset.reset()) fail("cannot close dataset");
}

void Hdf5Writer::close() {
  prepare_library();
  // The flush reports what a close hides.
  if (H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) < 0) {
    throw OutputFileError(path_.string(), "cannot write: " + library_reason());
  }
  if (!file_.reset()) throw OutputFileError(path_.string(), "cannot close: " + library_reason());
}

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path) : path_(path) {
  prepare_library();
  const Hdf5Handle access = file_access();
  file_ = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose};
  if (!file_.valid()) fail("cannot open as HDF5");
}

void Hdf5Reader::fail(const std::string& what) const {
  throw InputFileError(path_.string(), what + ": " + library_reason());
}

std::vector<std::string> Hdf5Reader::datasets() const {
  prepare_library();
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
  prepare_library();
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
  for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64}) {
    if (type.valid() && H5Tequal(type.id(), native_type(dtype)) > 0) {
      return {dtype, static_cast<std::int64_t>(count)};
    }
  }
  throw InputFileError(path_.string(), "dataset " + name +
                                           " has an unexpected type; expected are f32, f64, i32 "
                                           "and i64");
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
      H5Dread(dataset.id(), native_type(out.dtype()), memory.id(), space.id(), H5P_DEFAULT,
              out.raw()) < 0) {
    fail("cannot read dataset " + name);
  }
}

}  // namespace polymoe
