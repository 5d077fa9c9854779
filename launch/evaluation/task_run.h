// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "launch/data/tokenizer.h"
#include "launch/evaluation/likelihood.h"
#include "launch/evaluation/task_file.h"
#include "launch/evaluation/task_scores.h"
#include "runtime/progress.h"

namespace polymoe {

/// The model's answers to a task's items, the same on every rank; with progress on `progress`.
///
/// Context and continuation are encoded together and split where the context alone ends; blanks at
/// the end of a context go to the continuation. An empty context is the end of a document. A context
/// that is longer than the window loses its front; a continuation that is longer is predicted in
/// parts of half a window. An answer is generated greedily until one of its ends, the end of a
/// document, max_tokens or the end of the window. Nothing where `answering.leave` said so.
///
/// Collective over the mesh. Throws InputFileError with file and line where a continuation has no
/// tokens of its own.
std::optional<std::vector<TaskAnswer>> answer_task(const AnsweringModel& answering,
                                                   const Tokenizer& tokenizer, const Task& task,
                                                   const ProgressOutput& progress);

}  // namespace polymoe
