// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace polymoe {

/// The <svg> element of gnuplot's output, leaner, with ids that start with `name`; `title` is what
/// a screen reader says of it.
std::string svg_element(std::string svg, const std::string& name, const std::string& title);

}  // namespace polymoe
