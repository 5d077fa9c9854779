// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace polymoe {

/// The files that the user's inputs mean, in their order: "-" is standard input, a directory stands
/// for the files in it and below it, a name with *, ? or [ that is no file for those that match, in
/// the order of their names each. Hidden files are left out. Throws InputFileError where an input
/// is not there or matches nothing, and where one is named as Parquet in a build that does not read
/// it.
std::vector<std::string> text_inputs(const std::vector<std::string>& given);

/// Bytes of all of them together, compressed as they are; 0 where one is not a regular file.
std::int64_t input_bytes(const std::vector<std::string>& files);

/// Whether a name is that of JSON lines: .jsonl or .ndjson, compressed or not.
bool names_json_lines(const std::string& file);

}  // namespace polymoe
