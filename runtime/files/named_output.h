// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

/// Whether what is there is never replaced by a file: a device, a pipe, and what stands below /dev
/// and /proc (as /dev/stdout). Of these /dev/shm holds files as others.
bool is_device_or_pipe(const std::filesystem::path& path);

/// A path that the user named, and by which argument: "--json".
struct NamedPath {
  std::string argument;
  std::filesystem::path path;
};

/// Refuses an output that would replace an input, be another output, or lie in an input that is a
/// directory, whatever links lead there. Devices and pipes may be named twice; an input that is not
/// there is no file. Throws InvalidArgument naming both arguments.
void refuse_to_replace(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs);

/// Finds out before long work whether a file that the user named can be written: opens it, or makes
/// it and takes it away again. Devices and pipes are left alone. Throws OutputFileError.
void check_named_output(const std::filesystem::path& path);

/// Writes `content` to where the user said: as replace_file() does, but behind what is there where
/// that is_device_or_pipe(). Throws OutputFileError.
void write_named_output(const std::filesystem::path& path, std::string_view content);

}  // namespace polymoe
