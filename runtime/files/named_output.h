// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace polymoe {

/// Finds out before long work whether a file that the user named can be written: opens it, or makes
/// it and takes it away again. Devices and pipes are left alone. Throws OutputFileError.
void check_named_output(const std::filesystem::path& path);

/// Writes `content` to where the user said: as replace_file() does, but to a device or a pipe, and
/// to what stands below /dev and /proc (as /dev/stdout), as it is there: that is never replaced. Of
/// these /dev/shm holds files as others. Throws OutputFileError.
void write_named_output(const std::filesystem::path& path, std::string_view content);

}  // namespace polymoe
