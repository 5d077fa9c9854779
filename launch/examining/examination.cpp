// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/examination.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>
#include "runtime/files/json.h"

namespace polymoe {
namespace {

bool better(const Figure& a, const Figure& b) {
  return a.more_is_better ? a.value > b.value : a.value < b.value;
}

/// The figures of each name, in the order in which names come first.
std::vector<std::vector<const Figure*>> by_name(const std::vector<Examination>& ranks) {
  std::vector<std::vector<const Figure*>> groups;
  for (const Examination& rank : ranks) {
    for (const Figure& figure : rank.figures) {
      const auto group = std::ranges::find_if(
          groups, [&](const auto& known) { return known.front()->name == figure.name; });
      if (group == groups.end())
        groups.push_back({&figure});
      else
        group->push_back(&figure);
    }
  }
  return groups;
}

/// The ranks that have each value of a fact.
struct FactValues {
  std::string key;
  std::vector<std::pair<std::string, std::vector<std::string>>> values;  // most frequent first
};

std::vector<FactValues> facts_by_key(const std::vector<Examination>& ranks) {
  std::vector<FactValues> all;
  for (const Examination& rank : ranks) {
    for (const auto& [key, value] : rank.facts) {
      auto fact = std::ranges::find(all, key, &FactValues::key);
      if (fact == all.end()) fact = all.insert(all.end(), FactValues{key, {}});
      auto known = std::ranges::find_if(fact->values,
                                        [&](const auto& entry) { return entry.first == value; });
      if (known == fact->values.end()) known = fact->values.insert(known, {value, {}});
      known->second.push_back(rank.where);
    }
  }
  for (FactValues& fact : all)
    std::ranges::stable_sort(fact.values, [](const auto& a, const auto& b) {
      return a.second.size() > b.second.size();
    });
  return all;
}

std::string number(double value) {
  if (std::abs(value) >= 100.0) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}", value, std::abs(value) >= 1.0 ? 1 : 3);
}

Json strings(const std::vector<std::string>& values) {
  Json array = Json::array();
  for (const std::string& value : values) array.add(value);
  return array;
}

std::vector<std::string> strings_of(const Json& array) {
  std::vector<std::string> values;
  for (const Json& value : array.items()) values.push_back(value.as_string());
  return values;
}

}  // namespace

Json to_json(const Examination& examination) {
  Json figures = Json::array();
  for (const Figure& figure : examination.figures) {
    Json one = Json::object();
    one.set("name", figure.name);
    one.set("unit", figure.unit);
    one.set("where", figure.where);
    one.set("value", figure.value);
    one.set("more_is_better", figure.more_is_better);
    figures.add(std::move(one));
  }
  Json facts = Json::object();
  for (const auto& [key, value] : examination.facts) facts.set(key, value);
  Json json = Json::object();
  json.set("where", examination.where);
  json.set("figures", std::move(figures));
  json.set("facts", std::move(facts));
  json.set("problems", strings(examination.problems));
  json.set("remarks", strings(examination.remarks));
  return json;
}

Examination examination_of(const Json& json) {
  Examination examination{.where = json.at("where").as_string(),
                          .figures = {},
                          .facts = {},
                          .problems = strings_of(json.at("problems")),
                          .remarks = strings_of(json.at("remarks"))};
  for (const Json& one : json.at("figures").items())
    examination.figures.push_back({.name = one.at("name").as_string(),
                                   .unit = one.at("unit").as_string(),
                                   .where = one.at("where").as_string(),
                                   .value = one.at("value").as_number(),
                                   .more_is_better = one.at("more_is_better").as_bool()});
  for (const Json::Member& fact : json.at("facts").members())
    examination.facts.emplace_back(fact.key, fact.value.as_string());
  return examination;
}

FigureSummary summary_of(const std::vector<const Figure*>& figures) {
  std::vector<double> values;
  FigureSummary summary{.name = figures.front()->name,
                        .unit = figures.front()->unit,
                        .count = figures.size(),
                        .median = 0.0,
                        .worst = figures.front(),
                        .best = figures.front()};
  for (const Figure* figure : figures) {
    values.push_back(figure->value);
    if (better(*summary.worst, *figure)) summary.worst = figure;
    if (better(*figure, *summary.best)) summary.best = figure;
  }
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  summary.median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return summary;
}

std::vector<std::string> findings(const std::vector<Examination>& ranks, double tolerance) {
  std::vector<std::string> lines;
  for (const Examination& rank : ranks)
    for (const std::string& problem : rank.problems) lines.push_back(rank.where + ": " + problem);
  for (const FactValues& fact : facts_by_key(ranks)) {
    for (std::size_t i = 1; i < fact.values.size(); ++i) {
      const auto& [value, where] = fact.values[i];
      lines.push_back(
          fmt::format("{}{}: {} is {}, elsewhere {}", where.front(),
                      where.size() == 1 ? "" : fmt::format(" and {} more", where.size() - 1),
                      fact.key, value, fact.values.front().first));
    }
  }
  for (const auto& group : by_name(ranks)) {
    const FigureSummary all = summary_of(group);
    for (const Figure* figure : group) {
      const double off = all.median == 0.0 ? 0.0 : figure->value / all.median - 1.0;
      if ((figure->more_is_better ? -off : off) <= tolerance) continue;
      lines.push_back(fmt::format("{}: {} {} {}, {:.0f} % {} the median of {}", figure->where,
                                  figure->name, number(figure->value), figure->unit,
                                  100.0 * std::abs(off), off < 0.0 ? "below" : "above",
                                  number(all.median)));
    }
  }
  return lines;
}

std::string examination_text(const std::vector<Examination>& ranks,
                             const std::vector<std::string>& findings) {
  std::string text = fmt::format("{:<34}  {:>18}  {}\n", "measured", "median", "worst");
  for (const auto& group : by_name(ranks)) {
    const FigureSummary all = summary_of(group);
    text += fmt::format(
        "{:<34}  {:>18}  {}\n", all.name, fmt::format("{} {}", number(all.median), all.unit),
        all.count == 1
            ? all.worst->where
            : fmt::format("{}, {}; of {}", number(all.worst->value), all.worst->where, all.count));
  }
  text += "\n";
  std::string libraries;
  for (const FactValues& fact : facts_by_key(ranks)) {
    const std::string& value = fact.values.front().first;
    if (fact.key.starts_with(library_fact))
      libraries +=
          (libraries.empty() ? "" : ", ") + fact.key.substr(library_fact.size()) + " " + value;
    else
      text += fmt::format("{:<34}  {}{}\n", fact.key, value,
                          fact.values.size() == 1 ? "" : " (not everywhere)");
  }
  if (!libraries.empty()) text += fmt::format("{:<34}  {}\n", "libraries", libraries);
  for (const Examination& rank : ranks)
    for (const std::string& remark : rank.remarks) text += rank.where + ": " + remark + "\n";
  text += "\n";
  for (const std::string& finding : findings) text += "! " + finding + "\n";
  if (findings.empty()) text += "nothing stands out\n";
  return text;
}

Json examination_json(const std::vector<Examination>& ranks,
                      const std::vector<std::string>& findings, double tolerance) {
  Json all = Json::array();
  for (const Examination& rank : ranks) all.add(to_json(rank));
  Json medians = Json::object();
  for (const auto& group : by_name(ranks))
    medians.set(group.front()->name, summary_of(group).median);
  Json json = Json::object();
  json.set("tolerance", tolerance);
  json.set("medians", std::move(medians));
  json.set("findings", strings(findings));
  json.set("ranks", std::move(all));
  return json;
}

}  // namespace polymoe
