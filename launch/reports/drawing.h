// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/reports/figure.h"

namespace polymoe {

/// Size of a picture in CSS pixels; a page scales it.
struct PictureSize {
  int width = 720;
  int height = 400;
};

/// An <svg> element by gnuplot, for a page that holds picture_style() once; `name` makes the ids in
/// it unique on the page. Lines of more points than a picture can show are thinned out.
/// Throws InvalidArgument where there is nothing to draw (every series without a finite point, no
/// cell), where sizes contradict each other, or where gnuplot is not installed.
std::string draw(const Chart& chart, const std::string& name, PictureSize size = {});
/// Whether a chart has a point to draw: finite, and above 0 on logarithmic axes. Throws as draw().
bool shows_something(const Chart& chart);
std::string draw(const HeatMap& map, const std::string& name, PictureSize size = {});

/// The rules that give pictures their dark colours where the reader's screen is dark; paper is
/// light.
std::string picture_style();

/// The element as a file of its own.
std::string svg_file(const std::string& element);

}  // namespace polymoe
