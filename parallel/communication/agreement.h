// SPDX-License-Identifier: Apache-2.0
// How ranks end alike. An error must not leave a rank before its peers know: they would wait for
// it. So a rank keeps what it caught until all have agreed, and then all throw the same.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// What `body` throws; null when it returns.
template <class Body>
std::exception_ptr failure_of(Body&& body) {
  try {
    std::forward<Body>(body)();
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

/// Every rank brings what it caught, null for nothing. Returns where none caught anything; else
/// every rank throws what the lowest such rank caught: the same class of error, path and message.
/// Collective.
void throw_alike(const std::exception_ptr& failure, Communicator& ranks);

/// The text of every rank, on rank 0. Collective.
std::vector<std::string> gather_text(const std::string& text, Communicator& ranks);

/// The text of `root`, on every rank. Collective.
std::string broadcast_text(const std::string& text, int root, Communicator& ranks);
/// Likewise, or nothing where it has none.
std::optional<std::string> broadcast_text(const std::optional<std::string>& text, int root,
                                          Communicator& ranks);

/// The least of the numbers that the ranks bring, on every rank. Collective.
std::int64_t least_of_ranks(std::int64_t number, Communicator& ranks);

/// Whether every rank brings the same number. Collective.
bool same_on_all_ranks(std::int64_t number, Communicator& ranks);

/// Runs `body` on every rank; where it throws on some, every rank throws as throw_alike() does.
/// Collective.
template <class Body>
void on_every_rank(Communicator& ranks, Body&& body) {
  throw_alike(failure_of(std::forward<Body>(body)), ranks);
}

/// Runs `body` on rank 0 alone. What it throws there is thrown on every rank; what it returns,
/// nothing, a text, or a text where there is one, is returned on every rank. Collective.
template <class Body>
std::invoke_result_t<Body> on_first_rank(Communicator& ranks, Body&& body) {
  const bool first = ranks.rank() == 0;
  if constexpr (std::is_void_v<std::invoke_result_t<Body>>) {
    throw_alike(first ? failure_of(std::forward<Body>(body)) : nullptr, ranks);
  } else {
    std::invoke_result_t<Body> text;
    throw_alike(first ? failure_of([&] { text = std::forward<Body>(body)(); }) : nullptr, ranks);
    return broadcast_text(text, 0, ranks);
  }
}

}  // namespace polymoe
