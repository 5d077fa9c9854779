// SPDX-License-Identifier: Apache-2.0
#include "launch/config/option_makers.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/option.h"
#include "launch/config/schedule.h"
#include "launch/config/values.h"

namespace polymoe::option_makers {
namespace {

// '#' starts a comment in the file that the resolved configuration is written to.
bool survives_in_a_file(const std::string& text) {
  return text.find_first_of("#\r\n") == std::string::npos;
}

std::optional<std::vector<WeightedFile>> parse_files(const std::string& text) {
  std::vector<WeightedFile> parsed;
  for (const std::string& word : split_words(text)) {
    const std::size_t colon = word.rfind(':');
    const auto weight =
        colon == std::string::npos ? std::nullopt : parse_real(word.substr(colon + 1));
    if (weight && (colon == 0 || !(*weight > 0.0))) return std::nullopt;
    parsed.push_back({weight ? word.substr(0, colon) : word, weight});
  }
  return parsed;
}

std::string print_files(const std::vector<WeightedFile>& files) {
  std::string line;
  for (const WeightedFile& file : files) {
    if (!line.empty()) line += ' ';
    line += file.path;
    if (file.weight) line += ':' + shortest(*file.weight);
  }
  return line;
}

}  // namespace

Option real(const char* key, const char* range, Member<double> field, const char* help) {
  Option option{key, std::string("a number in ") + range, help, {}, {}};
  option.read = [interval = Interval(range), field](const std::string& text, Config& config) {
    const auto value = parse_real(text);
    if (!value || !interval.contains(*value)) return false;
    field(config) = *value;
    return true;
  };
  option.print = [field](const Config& config) { return shortest(field(config)); };
  return option;
}

Option width(const char* key, Member<std::int64_t> field, Member<bool> gated, const char* help) {
  Option option = whole(key, "[0, 16777216]", field, help);
  option.allowed += ", or an even one and `gated`";
  const auto read_number = option.read;
  option.read = [read_number, field, gated](const std::string& text, Config& config) {
    constexpr std::string_view mark = "gated";
    gated(config) = text.ends_with(mark);
    if (!gated(config)) return read_number(text, config);
    return read_number(text.substr(0, text.size() - mark.size()), config) && field(config) > 0 &&
           field(config) % 2 == 0;
  };
  return option;
}

Option flag(const char* key, Member<bool> field, const char* help) {
  return choice<bool>(key, {{"true", true}, {"false", false}}, field, help);
}

Option text(const char* key, Member<std::string> field, const char* help) {
  Option option{key, "text without '#' and line breaks", help, {}, {}};
  option.read = [field](const std::string& value, Config& config) {
    field(config) = value;
    return survives_in_a_file(value);
  };
  option.print = [field](const Config& config) { return field(config); };
  return option;
}

Option duration(const char* key, Member<std::string> field, const char* help) {
  Option option{key, Duration::allowed, help, {}, {}};
  option.read = [field](const std::string& value, Config& config) {
    const auto parsed = Duration::parse(value);
    if (parsed) field(config) = parsed->text();
    return parsed.has_value();
  };
  option.print = [field](const Config& config) { return field(config); };
  return option;
}

Option paths(const char* key, Member<std::vector<std::string>> field, const char* help) {
  Option option{key, "PATH ... without '#'", help, {}, {}};
  option.read = [field](const std::string& value, Config& config) {
    field(config) = split_words(value);
    return survives_in_a_file(value);
  };
  option.print = [field](const Config& config) {
    std::string line;
    for (const std::string& path : field(config)) line += (line.empty() ? "" : " ") + path;
    return line;
  };
  return option;
}

Option files(const char* key, Member<std::vector<WeightedFile>> field, const char* help) {
  Option option{key, "PATH[:WEIGHT] ... with weights > 0, no '#'", help, {}, {}};
  option.read = [field](const std::string& value, Config& config) {
    auto parsed = parse_files(value);
    if (!parsed) return false;
    field(config) = *std::move(parsed);
    return survives_in_a_file(value);
  };
  option.print = [field](const Config& config) { return print_files(field(config)); };
  return option;
}

Option epochs(const char* key, Member<std::vector<WeightedFile>> field, const char* help) {
  Option option = files(key, field, help);
  option.allowed = "PATH:EPOCHS ... with epochs > 0, no '#'";
  option.read = [read = option.read, field](const std::string& value, Config& config) {
    if (!read(value, config)) return false;
    const auto& all = field(config);
    return std::all_of(all.begin(), all.end(), [](const auto& file) { return file.weight; });
  };
  return option;
}

Option stages(const char* key, Member<std::vector<DataStage>> field, const char* help) {
  Option option{key,
                "TOKENS PATH[:WEIGHT] ...; TOKENS PATH[:WEIGHT] ... with ascending TOKENS > 0",
                help,
                {},
                {}};
  option.read = [field](const std::string& value, Config& config) {
    std::vector<DataStage> parsed;
    for (std::size_t begin = 0; begin < value.size();) {
      const std::size_t end = std::min(value.find(';', begin), value.size());
      const std::string part(trim(value.substr(begin, end - begin)));
      const std::size_t blank = std::min(part.find_first_of(" \t"), part.size());
      const auto tokens = parse_count(part.substr(0, blank));
      const auto list = parse_files(part.substr(blank));
      if (!tokens || *tokens <= (parsed.empty() ? 0 : parsed.back().tokens)) return false;
      if (!list || list->empty()) return false;
      parsed.push_back({*tokens, *list});
      begin = end + 1;
    }
    field(config) = std::move(parsed);
    return survives_in_a_file(value);
  };
  option.print = [field](const Config& config) {
    std::string line;
    for (const DataStage& stage : field(config))
      line += (line.empty() ? "" : "; ") + std::to_string(stage.tokens) + ' ' +
              print_files(stage.files);
    return line;
  };
  return option;
}

Option layer_list(const char* key, Member<std::vector<std::int64_t>> field, const char* help) {
  Option option{key, "layer numbers from 0, separated by blanks", help, {}, {}};
  option.read = [field](const std::string& value, Config& config) {
    std::vector<std::int64_t> layers;
    for (const std::string& word : split_words(value)) {
      const auto layer = parse_count(word);
      if (!layer || *layer < 0) return false;
      layers.push_back(*layer);
    }
    field(config) = std::move(layers);
    return true;
  };
  option.print = [field](const Config& config) {
    std::string line;
    for (const std::int64_t layer : field(config)) {
      if (!line.empty()) line += ' ';
      line += std::to_string(layer);
    }
    return line;
  };
  return option;
}

}  // namespace polymoe::option_makers
