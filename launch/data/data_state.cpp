// SPDX-License-Identifier: Apache-2.0
#include "launch/data/data_state.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

Json file_to_json(const DataState::File& file) {
  Json json = Json::object();
  json.set("path", file.identity.path)
      .set("bytes", file.identity.bytes)
      .set("modified", file.identity.modified)
      .set("tokens", file.identity.tokens)
      .set("documents", file.identity.documents)
      .set("hash", file.identity.hash)
      .set("slot", file.position.slot)
      .set("start", file.position.start)
      .set("drawn", file.drawn)
      .set("windows", file.windows);
  return json;
}

DataState::File file_from_json(const Json& json) {
  return {
      .identity = {.path = json.at("path").as_string(),
                   .bytes = json.at("bytes").as_integer(0),
                   .modified = json.at("modified").as_integer(),
                   .tokens = json.at("tokens").as_integer(1),
                   .documents = json.at("documents").as_integer(0),
                   .hash = json.at("hash").as_string()},
      .position = {.slot = json.at("slot").as_integer(0), .start = json.at("start").as_integer(0)},
      .drawn = json.at("drawn").as_integer(0),
      .windows = json.at("windows").as_integer(1)};
}

/// The file of before that `now` is: of the same path, or else of the same content.
std::vector<DataState::File>::iterator find_earlier(std::vector<DataState::File>& before,
                                                    const FileIdentity& now) {
  const auto named = std::find_if(before.begin(), before.end(), [&](const DataState::File& file) {
    return file.identity.path == now.path;
  });
  if (named != before.end()) return named;
  return std::find_if(before.begin(), before.end(), [&](const DataState::File& file) {
    return now.difference_to(file.identity).empty();
  });
}

}  // namespace

Json DataState::to_json() const {
  Json all = Json::array();
  for (const File& file : files) all.add(file_to_json(file));
  Json json = Json::object();
  json.set("sample", sample).set("tokens", tokens).set("mixture", mixture);
  json.set("files", std::move(all));
  json.set("tokenizer", tokenizer ? tokenizer->to_json() : Json());
  return json;
}

DataState DataState::from_json(const Json& json) {
  DataState state{.sample = json.at("sample").as_integer(0),
                  .tokens = json.at("tokens").as_integer(0),
                  .mixture = json.at("mixture").as_string(),
                  .files = {},
                  .tokenizer = {}};
  for (const Json& file : json.at("files").items()) state.files.push_back(file_from_json(file));
  if (!json.at("tokenizer").is_null())
    state.tokenizer = TokenizerIdentity::from_json(json.at("tokenizer"));
  return state;
}

DataContinuation continue_data(const DataState& before, std::vector<DataState::File> files,
                               const std::string& mixture, std::int64_t sample, std::int64_t tokens,
                               bool accept_changed) {
  DataContinuation result;
  std::vector<DataState::File> earlier = before.files;
  std::int64_t slots = 0;
  for (const DataState::File& file : earlier) slots = std::max(slots, file.position.slot + 1);
  bool same = mixture == before.mixture;
  for (DataState::File& file : files) {
    const FileIdentity& now = file.identity;
    const auto found = find_earlier(earlier, now);
    if (found == earlier.end()) {
      file.position = {.slot = slots++, .start = 0};
      result.notes.push_back(now.path + " is new: it begins at its first window");
      same = false;
      continue;
    }
    const std::string difference = now.difference_to(found->identity);
    if (!difference.empty()) {
      if (!accept_changed)
        throw InputFileError(
            now.path, fmt::format("{}: it was changed since the checkpoint; put the old file "
                                  "back, or set data.changed = accept to take it as a new one",
                                  difference));
      result.notes.push_back(
          fmt::format("{} {}: taken as new data (data.changed = accept)", now.path, difference));
      file.position = {.slot = slots++, .start = 0};
      same = false;
    } else {
      if (now.path != found->identity.path)
        result.notes.push_back(now.path + " is what was " + found->identity.path);
      else if (now.modified != found->identity.modified)
        result.notes.push_back(now.path + " was written anew since the checkpoint; size and " +
                               "samples of its content are the same");
      // A start is filled in below, once it is known whether the mixture goes on.
      file.position = found->position;
      file.drawn = found->drawn;
      if (file.windows != found->windows) {
        file.drawn = static_cast<std::int64_t>(
            std::llround(static_cast<double>(found->drawn) * static_cast<double>(file.windows) /
                         static_cast<double>(found->windows)));
        result.notes.push_back(fmt::format(
            "{} is cut into {} windows instead of {}: its pass goes on at the same share", now.path,
            with_separators(file.windows), with_separators(found->windows)));
        same = false;
      }
    }
    earlier.erase(found);
  }
  for (const DataState::File& file : earlier)
    if (mixture != before.mixture)
      result.notes.push_back(file.identity.path + " is not used; its place is remembered");
  result.unused = std::move(earlier);
  result.position = {.sample = same ? before.sample : sample,
                     .tokens = same ? before.tokens : tokens,
                     .files = {}};
  for (const DataState::File& file : files)
    result.position.files.push_back(
        {.slot = file.position.slot, .start = same ? file.position.start : file.drawn});
  return result;
}

}  // namespace polymoe
