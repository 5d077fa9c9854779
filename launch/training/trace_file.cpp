// SPDX-License-Identifier: Apache-2.0
#include "launch/training/trace_file.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t steps_track = 0, host_track = 1, stream_track = 2, first_group_track = 10;

double microseconds(double seconds) { return seconds * 1e6; }

Json event(const char* phase, std::string name, std::size_t rank, std::int64_t track) {
  Json json = Json::object();
  json.set("ph", phase).set("name", std::move(name)).set("pid", rank).set("tid", track);
  return json;
}

class Writer {
 public:
  void title(const char* what, std::size_t rank, std::int64_t track, std::string name) {
    Json json = event("M", what, rank, track);
    json.set("args", Json::object().set("name", std::move(name)));
    add(json);
  }
  /// Where the track has something in it.
  void spans(const std::vector<TraceSpan>& spans, std::size_t rank, std::int64_t track,
             const char* name) {
    if (spans.empty()) return;
    title("thread_name", rank, track, name);
    for (const TraceSpan& span : spans) {
      Json json = event("X", span.name, rank, track);
      json.set("ts", microseconds(span.begin)).set("dur", microseconds(span.end - span.begin));
      add(json);
    }
  }
  void operation(const TraceOperation& one, std::size_t rank) {
    Json json = event("X", one.name, rank, first_group_track + one.group);
    json.set("cat", "exchange")
        .set("ts", microseconds(one.begin))
        .set("dur", microseconds(one.end - one.begin))
        .set("args", Json::object()
                         .set("sequence", one.sequence)
                         .set("bytes", one.bytes)
                         .set("posted in", one.place)
                         .set("queued_us", microseconds(one.begin - one.posted)));
    add(json);
  }
  void flow(const char* phase, std::int64_t id, const TraceOperation& one, std::size_t rank) {
    Json json = event(phase, one.name, rank, first_group_track + one.group);
    json.set("cat", "exchange").set("id", id).set("ts", microseconds(one.begin)).set("bp", "e");
    add(json);
  }
  std::string finish() { return text_ + "\n]}\n"; }

 private:
  void add(const Json& json) {
    if (!first_) text_ += ",\n";
    first_ = false;
    text_ += json.dump();
  }

  std::string text_ = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  bool first_ = true;
};

Json to_json(const std::vector<TraceSpan>& spans) {
  Json array = Json::array();
  for (const TraceSpan& span : spans)
    array.add(Json::array().add(span.name).add(span.begin).add(span.end));
  return array;
}

std::vector<TraceSpan> spans_of(const Json& array) {
  std::vector<TraceSpan> spans;
  for (const Json& one : array.items())
    spans.push_back({.name = one.items().at(0).as_string(),
                     .begin = one.items().at(1).as_number(),
                     .end = one.items().at(2).as_number()});
  return spans;
}

}  // namespace

std::string RankTrace::to_text() const {
  Json json = Json::object();
  json.set("title", title);
  json.set("steps", to_json(steps)).set("host", to_json(host)).set("stream", to_json(stream));
  Json array = Json::array();
  for (const TraceOperation& one : operations) {
    array.add(Json::array()
                  .add(one.group)
                  .add(one.group_name)
                  .add(one.sequence)
                  .add(one.name)
                  .add(one.bytes)
                  .add(one.place)
                  .add(one.posted)
                  .add(one.begin)
                  .add(one.end));
  }
  json.set("operations", std::move(array));
  return json.dump();
}

RankTrace RankTrace::from_text(const std::string& text) {
  const Json json = parse_json(text, "trace of a rank");
  RankTrace trace{.title = json.at("title").as_string(),
                  .steps = spans_of(json.at("steps")),
                  .host = spans_of(json.at("host")),
                  .stream = spans_of(json.at("stream")),
                  .operations = {}};
  for (const Json& one : json.at("operations").items()) {
    const std::vector<Json>& parts = one.items();
    trace.operations.push_back({.group = parts.at(0).as_integer(0),
                                .group_name = parts.at(1).as_string(),
                                .sequence = parts.at(2).as_integer(0),
                                .name = parts.at(3).as_string(),
                                .bytes = parts.at(4).as_integer(0),
                                .place = parts.at(5).as_string(),
                                .posted = parts.at(6).as_number(),
                                .begin = parts.at(7).as_number(),
                                .end = parts.at(8).as_number()});
  }
  return trace;
}

std::string chrome_trace(const std::vector<RankTrace>& ranks) {
  Writer writer;
  using Key = std::tuple<std::int64_t, std::string, std::int64_t>;
  std::map<Key, std::vector<std::pair<std::size_t, const TraceOperation*>>> same;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const RankTrace& trace = ranks[rank];
    writer.title("process_name", rank, steps_track, trace.title);
    writer.spans(trace.steps, rank, steps_track, "steps");
    writer.spans(trace.host, rank, host_track, "host");
    writer.spans(trace.stream, rank, stream_track, "stream");
    std::map<std::int64_t, std::string> groups;
    for (const TraceOperation& one : trace.operations) {
      groups.emplace(one.group, one.group_name);
      writer.operation(one, rank);
      same[{one.group, one.group_name, one.sequence}].emplace_back(rank, &one);
    }
    for (const auto& [number, name] : groups)
      writer.title("thread_name", rank, first_group_track + number, "exchange of " + name);
  }
  std::int64_t id = 0;
  for (auto& [key, of_ranks] : same) {
    if (of_ranks.size() < 2) continue;
    ++id;
    std::ranges::stable_sort(of_ranks, {}, [](const auto& one) { return one.second->begin; });
    for (std::size_t i = 0; i < of_ranks.size(); ++i) {
      const char* const phase = i == 0 ? "s" : i + 1 == of_ranks.size() ? "f" : "t";
      writer.flow(phase, id, *of_ranks[i].second, of_ranks[i].first);
    }
  }
  return writer.finish();
}

}  // namespace polymoe
