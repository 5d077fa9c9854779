// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "tests/fuzz/target_files.h"
#include "tests/fuzz/targets.h"

namespace polymoe::fuzz {

void configuration(std::string_view bytes) {
  try {
    const Config config = parse_config(std::string(bytes), "fuzz.ini", {});
    const std::string text = to_ini(config);
    require(to_ini(parse_config(text, "again.ini", {})) == text, "a configuration reads back");
  } catch (const InvalidArgument&) {
  }
}

void json(std::string_view bytes) {
  try {
    const Json value = parse_json(bytes, "fuzz.json");
    const std::string text = value.dump();
    require(parse_json(text, "again.json").dump() == text, "JSON reads back");
    require(parse_json(value.dump_indented(), "again.json").dump() == text,
            "indented JSON reads back");
  } catch (const InputFileError&) {
  }
}

}  // namespace polymoe::fuzz
