// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/hdf5_library.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/dtype.h"

// Newer libraries keep this version's functions under these names.
#define H5_USE_110_API
#include <hdf5.h>

#include <algorithm>
#include <utility>

#include "runtime/error.h"

namespace polymoe {
namespace {

// After a write to a full disk the library's exit handler crashes. Even the library's constants
// start it, and with it the handler; so this comes before main, ahead of any of them.
[[maybe_unused]] const bool no_exit_handler = H5dont_atexit() >= 0;

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
  prepare_hdf5();
  return close_(std::exchange(id_, -1)) >= 0;
}

namespace {

/// The upper half of a little-endian IEEE float, described to the library, so that whatever reads
/// such a dataset by it gets the values.
hid_t make_bf16_type() {
  const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
  // Fields first: a type's size cannot fall below them. Sign, exponent and its size, mantissa.
  if (H5Tset_fields(type, 15, 7, 8, 0, 7) < 0 || H5Tset_size(type, 2) < 0 || H5Tlock(type) < 0) {
    throw Error("HDF5 does not take the type bf16: " + hdf5_reason());
  }
  return type;
}

}  // namespace

void prepare_hdf5() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  // No file of ours needs a filter or a connector, and none may have one loaded.
  [[maybe_unused]] static const bool no_plugins = H5PLset_loading_state(0) >= 0;
}

std::string hdf5_reason() {
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

std::int64_t hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_NATIVE_FLOAT;
    case DType::f64:
      return H5T_NATIVE_DOUBLE;
    case DType::bf16: {
      static const hid_t type = make_bf16_type();
      return type;
    }
    case DType::i32:
      return H5T_NATIVE_INT32;
    case DType::i64:
      return H5T_NATIVE_INT64;
    default:
      throw InvalidArgument(std::string("a dataset of ") + name_of(dtype) +
                            "; allowed are f32, f64, bf16, i32 and i64");
  }
}

Hdf5Handle hdf5_properties(std::int64_t kind) { return {H5Pcreate(kind), H5Pclose}; }

Hdf5Handle hdf5_file_access() {
  Hdf5Handle access = hdf5_properties(H5P_FILE_ACCESS);
  H5Pset_file_locking(access.id(), false, true);
  H5Pset_fclose_degree(access.id(), H5F_CLOSE_STRONG);
  return access;
}

Hdf5Handle create_hdf5_file(const std::filesystem::path& path, const Hdf5Handle& access) {
  prepare_hdf5();
  const Hdf5Handle creation = hdf5_properties(H5P_FILE_CREATE);
  H5Pset_obj_track_times(creation.id(), false);
  Hdf5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose);
  if (!file.valid()) throw OutputFileError(path.string(), "cannot create: " + hdf5_reason());
  return file;
}

void make_hdf5_groups(const std::filesystem::path& path, const Hdf5Handle& file,
                      const std::string& name) {
  prepare_hdf5();
  for (std::size_t slash = name.find('/', 1); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    const htri_t exists = H5Lexists(file.id(), group.c_str(), H5P_DEFAULT);
    if (exists > 0) continue;
    const Hdf5Handle creation = hdf5_properties(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(creation.id(), false);
    const Hdf5Handle made(
        exists < 0 ? -1
                   : H5Gcreate2(file.id(), group.c_str(), H5P_DEFAULT, creation.id(), H5P_DEFAULT),
        H5Gclose);
    if (!made.valid()) {
      throw OutputFileError(path.string(),
                            "cannot make the groups of " + name + ": " + hdf5_reason());
    }
  }
  if (H5Lexists(file.id(), name.c_str(), H5P_DEFAULT) > 0) {
    throw InvalidArgument("dataset " + name + " is written twice");
  }
}

void close_hdf5_file(const std::filesystem::path& path, Hdf5Handle& file) {
  prepare_hdf5();
  // The flush reports what a close hides.
  if (H5Fflush(file.id(), H5F_SCOPE_GLOBAL) < 0) {
    throw OutputFileError(path.string(), "cannot write: " + hdf5_reason());
  }
  if (!file.reset()) throw OutputFileError(path.string(), "cannot close: " + hdf5_reason());
}

}  // namespace polymoe
