// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace polymoe {

/// Whether what is there is never replaced by a file: a device, a pipe, and what stands below /dev
/// and /proc (as /dev/stdout). Of these /dev/shm holds files as others.
bool is_device_or_pipe(const std::filesystem::path& path);

/// Finds out before long work whether a file that the user named can be written: opens it, or makes
/// it and takes it away again. Devices and pipes are left alone. Throws OutputFileError.
void check_named_output(const std::filesystem::path& path);

/// Writes `content` to where the user said: as replace_file() does, but behind what is there where
/// that is_device_or_pipe(). Throws OutputFileError.
void write_named_output(const std::filesystem::path& path, std::string_view content);

}  // namespace polymoe
