// SPDX-License-Identifier: Apache-2.0
#include "launch/explaining/explanation.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>
#include "parallel/communication/ledger.h"

namespace polymoe {
namespace {

/// The oldest operation that a rank has posted and not finished, over all its groups.
struct Open {
  std::string group;
  LedgerOperation operation;
};

std::optional<Open> oldest_open(const LedgerView& ledger) {
  std::optional<Open> oldest;
  for (const LedgerView::Group& group : ledger.groups) {
    const auto open = std::ranges::find(group.operations, 0.0, &LedgerOperation::done);
    if (open == group.operations.end()) continue;
    if (!oldest || open->posted < oldest->operation.posted) oldest = Open{group.name, *open};
  }
  return oldest;
}

std::string bytes_text(std::int64_t bytes) {
  if (bytes >= 1000000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
  if (bytes >= 1000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) * 1e-3);
  return fmt::format("{} bytes", bytes);
}

std::string since_text(double time, double now) {
  return fmt::format("since {:.0f} s", std::max(0.0, now - time));
}

/// "ranks 0-2, 5".
std::string ranks_text(const std::vector<int>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(ranks[i]);
    if (last > i) text += (last > i + 1 ? "-" : ", ") + std::to_string(ranks[last]);
    i = last;
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + text;
}

const char* state_text(ProcessState state) {
  switch (state) {
    case ProcessState::elsewhere:
      return "";
    case ProcessState::gone:
      return "its process is gone";
    case ProcessState::stopped:
      return "its process is stopped (SIGSTOP or a debugger)";
    case ProcessState::sleeping:
      return "its process sleeps";
    case ProcessState::running:
      return "its process is computing";
    case ProcessState::in_system:
      return "its process is held inside the system (a disk or a file system that does not answer)";
  }
  return "";
}

/// "backward of step 7", "preparing, before the first step".
std::string moment_text(const LedgerPlace& place, std::int64_t step) {
  return step > 0 ? fmt::format("{} of step {}", place.text(), step)
                  : place.text() + ", before the first step";
}

std::string name_of(const ExplainedRank& rank) {
  const LedgerView& ledger = rank.ledger;
  return fmt::format("rank {} ({}{}{}, process {})", ledger.rank, ledger.host,
                     ledger.device.empty() ? "" : ", ", ledger.device, ledger.process);
}

std::string place_of(const ExplainedRank& rank, double now) {
  const LedgerView& ledger = rank.ledger;
  std::string text;
  if (!ledger.place.doing.empty())
    text = fmt::format("it is in {} {}", moment_text(ledger.place, ledger.step),
                       since_text(ledger.there_since, now));
  const std::string state = state_text(rank.state);
  return text + (!text.empty() && !state.empty() ? "; " : "") + state;
}

const char* class_of(const ExplainedRank& rank) {
  switch (rank.state) {
    case ProcessState::gone:
      return "a lost rank";
    case ProcessState::stopped:
      return "a stopped process";
    case ProcessState::in_system:
      return "a disk or a file system";
    default:
      return rank.ledger.place.doing == "data" || rank.ledger.place.doing.starts_with("saving")
                 ? "data or disk on that host"
                 : "the host's own work: computing for long, or in an endless loop";
  }
}

/// What a rank has of the operation that others wait in.
enum class Share : std::uint8_t { same, other, behind, past, unknown };

Share share_of(const LedgerView& ledger, const Open& awaited) {
  const auto group = std::ranges::find(ledger.groups, awaited.group, &LedgerView::Group::name);
  if (group == ledger.groups.end()) return Share::unknown;
  if (group->posted < awaited.operation.sequence) return Share::behind;
  const auto own =
      std::ranges::find(group->operations, awaited.operation.sequence, &LedgerOperation::sequence);
  if (own == group->operations.end()) return Share::past;
  if (own->name != awaited.operation.name) return Share::other;
  // Rows that ranks exchange differ from rank to rank; anything else is of one size.
  const bool by_rows = own->name == "all_to_all" || own->name == "exchange";
  if (!by_rows && own->bytes != awaited.operation.bytes) return Share::other;
  return own->done > 0.0 ? Share::past : Share::same;
}

std::string operation_text(const Open& open) {
  const LedgerOperation& operation = open.operation;
  return fmt::format("`{}` number {} of group {}{}{}", operation.name, operation.sequence,
                     open.group,
                     operation.place.doing.empty()
                         ? ""
                         : fmt::format(" ({})", moment_text(operation.place, operation.step)),
                     operation.bytes > 0 ? ", " + bytes_text(operation.bytes) : "");
}

}  // namespace

std::string explain(const std::vector<ExplainedRank>& ranks, double now) {
  if (ranks.empty())
    return "no ledger of this run is here: it has ended in good order, or runs elsewhere";
  std::optional<Open> awaited;
  for (const ExplainedRank& rank : ranks) {
    const auto open = oldest_open(rank.ledger);
    // The lowest number that is open: the groups' order makes later ones wait for it.
    if (open && (!awaited || open->operation.posted < awaited->operation.posted)) awaited = open;
  }
  std::string text;
  if (!awaited) {
    for (const ExplainedRank& rank : ranks)
      text += (text.empty() ? "" : "; ") + name_of(rank) + ": " + place_of(rank, now);
    return "nobody waits for anybody: " + text;
  }
  std::vector<int> waiting;
  std::vector<const ExplainedRank*> behind, other, past;
  for (const ExplainedRank& rank : ranks) {
    switch (share_of(rank.ledger, *awaited)) {
      case Share::same:
        // One that was killed or stopped in the middle of it does not wait.
        if (rank.state == ProcessState::gone || rank.state == ProcessState::stopped)
          behind.push_back(&rank);
        else
          waiting.push_back(rank.ledger.rank);
        break;
      case Share::behind:
        behind.push_back(&rank);
        break;
      case Share::other:
        other.push_back(&rank);
        break;
      case Share::past:
        past.push_back(&rank);
        break;
      case Share::unknown:
        break;
    }
  }
  const std::string wait =
      waiting.empty()
          ? ""
          : fmt::format("{} wait{} in it {}", ranks_text(waiting), waiting.size() == 1 ? "s" : "",
                        since_text(awaited->operation.posted, now));
  for (const ExplainedRank* rank : behind) {
    const bool inside = share_of(rank->ledger, *awaited) == Share::same;
    text += fmt::format("{} {} {}; {}; class of cause: {}. ", name_of(*rank),
                        inside ? "does not go on in" : "has not come to", operation_text(*awaited),
                        place_of(*rank, now), class_of(*rank));
  }
  for (const ExplainedRank* rank : other) {
    const auto group =
        std::ranges::find(rank->ledger.groups, awaited->group, &LedgerView::Group::name);
    const auto own = std::ranges::find(group->operations, awaited->operation.sequence,
                                       &LedgerOperation::sequence);
    text += fmt::format(
        "{} has posted `{}` of {} where others have {}; class of cause: ranks that disagree. ",
        name_of(*rank), own->name, bytes_text(own->bytes), operation_text(*awaited));
  }
  const int all = ranks.front().ledger.ranks;
  if (static_cast<int>(ranks.size()) < all) {
    std::vector<int> missing;
    for (int i = 0; i < all; ++i)
      if (std::ranges::none_of(ranks, [&](const auto& rank) { return rank.ledger.rank == i; }))
        missing.push_back(i);
    text += fmt::format("No ledger of {} is here: on another node, or lost. ", ranks_text(missing));
  }
  if (behind.empty() && other.empty() && static_cast<int>(ranks.size()) == all)
    text += fmt::format("All ranks are in {}; class of cause: the network or the transport. ",
                        operation_text(*awaited));
  else if (behind.empty() && other.empty())
    text += fmt::format("Awaited: {}. ", operation_text(*awaited));
  text += wait;
  // Some operations end on one rank before they do on another: it waits in the next one.
  for (const ExplainedRank* rank : past) {
    const auto open = oldest_open(rank->ledger);
    if (!open) continue;
    const bool waits = rank->state != ProcessState::gone && rank->state != ProcessState::stopped;
    text += fmt::format("{}rank {} {} {} {}", text.empty() || text.back() == ' ' ? "" : "; ",
                        rank->ledger.rank, waits ? "waits in" : "is past it, in",
                        operation_text(*open), since_text(open->operation.posted, now));
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

std::string loss_text(const ExplainedRank& rank, double now) {
  const LedgerView& ledger = rank.ledger;
  LedgerPlace place = ledger.place;
  if (place.doing.empty()) place.doing = "its start";
  return fmt::format(
      "{} is gone: its process was killed, by the memory killer perhaps, or crashed; it was in {} "
      "{}",
      name_of(rank), moment_text(place, ledger.step), since_text(ledger.there_since, now));
}

std::string rank_table(const std::vector<ExplainedRank>& ranks, double now) {
  std::string table = fmt::format("{:>5}  {:<12}  {:>8}  {:>7}  {:<46}  {}\n", "rank", "host",
                                  "process", "step", "doing", "waits in");
  for (const ExplainedRank& rank : ranks) {
    const LedgerView& ledger = rank.ledger;
    std::string doing = ledger.place.text();
    if (rank.state == ProcessState::gone)
      doing = "gone";
    else if (rank.state == ProcessState::stopped)
      doing += " (stopped)";
    else if (!doing.empty())
      doing += ", " + since_text(ledger.there_since, now);
    const auto open = oldest_open(ledger);
    table += fmt::format(
        "{:>5}  {:<12}  {:>8}  {:>7}  {:<46}  {}\n", ledger.rank, ledger.host, ledger.process,
        ledger.step, doing,
        open ? operation_text(*open) + " " + since_text(open->operation.posted, now) : "-");
  }
  return table;
}

}  // namespace polymoe
