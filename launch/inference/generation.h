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
  std::vector<std::string> stops = {};  // texts that end it; they are not shown
  bool beyond_context = false;          // go on from the last half of a full context
};

/// Throws InvalidArgument when a prompt of so many tokens and the new ones are more than the context
/// and beyond_context is not set, or the prompt alone is.
void check_room(std::int64_t prompt, std::int64_t context, const GenerationRequest& request);

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

/// Draws token after token; `show` is told the text as it becomes known. Every rank runs the model;
/// rank 0 draws. Collective. Throws InvalidArgument as check_room does.
Generation generate(SavedModel& saved, const Tokenizer& tokenizer, const GenerationRequest& request,
                    const std::function<void(const std::string&)>& show);

}  // namespace polymoe
