// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/tokenizer.h"
#include "launch/inference/sampler.h"
#include "launch/inference/saved_model.h"

namespace polymoe {

/// A text to be continued.
struct GenerationRequest {
  std::string prompt = {};
  std::int64_t tokens = 0;  // at most that many new ones
  SamplingOptions sampling = {};
  std::uint64_t text = 0;               // its number among those that are continued, see Sampler
  std::vector<std::string> stops = {};  // texts that end it; they are not shown
  bool beyond_context = false;          // go on from the last half of a full context
};

/// What is wrong with a prompt "of N tokens: ..." that leaves no room in the context for the new
/// ones, or with beyond_context for any; empty: nothing.
std::string room_fault(std::int64_t prompt, std::int64_t context, const GenerationRequest& request);

/// Why a generation ended.
enum class GenerationEnd : std::uint8_t { document, stop_text, tokens };

struct Generation {
  std::string text = {};    // without the prompt
  std::int64_t tokens = 0;  // drawn, the one that ended it included
  std::int64_t prompt_tokens = 0;
  GenerationEnd end = GenerationEnd::tokens;
  std::string stop = {};  // the text that ended it
};

/// "the end of the document", "the stop text \"...\"", "--tokens 128".
std::string end_text(const Generation& generation);

/// Lets text through until one of the stop texts is complete, and holds back what may become one.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  /// What may be shown of all that was added. Nothing any more once stopped() is not empty.
  std::string add(std::string_view text);
  /// What was held back, at the end.
  std::string finish();
  /// The stop text that was met; empty = none.
  const std::string& stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string stopped_;
};

/// Who is told what becomes of requests, by their numbers, on every rank alike.
struct GenerationListener {
  std::function<void(std::size_t request, const std::string& text)> show;  // more of its text
  std::function<void(std::size_t request, const Generation& result)> done;
  /// Asked before each pass: leave the rest? Empty = never.
  std::function<bool()> leave = {};
};

/// Continues all requests, many at a time as continue_all does. Texts are shown as they become
/// known, those of several requests mixed. Collective. Throws InvalidArgument where there is a
/// room_fault().
void generate(SavedModel& saved, const Tokenizer& tokenizer,
              const std::vector<GenerationRequest>& requests, const GenerationListener& listener);

}  // namespace polymoe
