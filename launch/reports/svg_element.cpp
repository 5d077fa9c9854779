// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/svg_element.h"

#include <fmt/format.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace polymoe {
namespace {

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

/// Takes out what lies from `begin` to the end of `end`, once.
void cut_out(std::string& text, std::string_view begin, std::string_view end) {
  const std::size_t from = text.find(begin);
  if (from == std::string::npos) return;
  const std::size_t to = text.find(end, from);
  if (to != std::string::npos) text.erase(from, to + end.size() - from);
}

/// Groups that hold nothing.
void drop_empty_groups(std::string& text) {
  std::string kept;
  kept.reserve(text.size());
  std::size_t done = 0;
  for (std::size_t at = 0; (at = text.find("<g fill=", at)) != std::string::npos;) {
    const std::size_t open_end = text.find('>', at);
    if (open_end == std::string::npos) break;
    std::size_t next = text.find_first_not_of(" \t\n", open_end + 1);
    if (next != std::string::npos && text.compare(next, 4, "</g>") == 0) {
      kept.append(text, done, at - done);
      done = at = next + 4;
    } else {
      at = open_end;
    }
  }
  text = kept.append(text, done);
}

}  // namespace

std::string svg_element(std::string svg, const std::string& name, const std::string& title) {
  svg.erase(0, svg.find("<svg"));
  cut_out(svg, "<desc>", "</desc>");
  cut_out(svg, "<filter id='textbox'", "</filter>");
  cut_out(svg, "<filter id='greybox'", "</filter>");
  if (svg.find("xlink:href='#gpPt", svg.find("</defs>")) == std::string::npos)
    cut_out(svg, "<defs>", "</defs>");
  // The ground that gnuplot puts under points is not that of a dark page.
  for (std::size_t at = 0; (at = svg.find("color='white'/>", at)) != std::string::npos;) {
    const std::size_t begin = svg.rfind("<use", at);
    svg.erase(begin, at + std::string_view("color='white'/>").size() - begin);
    at = begin;
  }
  drop_empty_groups(svg);
  replace_all(svg, " stroke-linecap=\"butt\" stroke-linejoin=\"miter\"", "");
  replace_all(svg, "gpPt", name + "-point");
  replace_all(svg, "gpDot", name + "-dot");
  replace_all(svg, "gnuplot_canvas", name + "-canvas");
  replace_all(svg, "font-family=\"Arial\"", "font-family=\"system-ui, sans-serif\"");
  while (svg.find("<title>") != std::string::npos) cut_out(svg, "<title>", "</title>");
  replace_all(svg, "plot_plot_", name + "-plot-");
  std::string escaped = title;
  replace_all(escaped, "&", "&amp;");
  replace_all(escaped, "<", "&lt;");
  replace_all(escaped, "\"", "&quot;");
  replace_all(escaped, "'", "&#39;");
  svg.replace(0, 4,
              fmt::format("<svg class=\"picture\" id=\"{}\" role=\"img\" aria-label=\"{}\"", name,
                          escaped));
  return svg;
}

}  // namespace polymoe
