// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/reports/drawing.h"
#include "launch/reports/figure.h"

namespace polymoe {

/// An HTML page that needs nothing beside it: text, tables and pictures, for light and dark screens
/// and for paper. Texts are given plain; the page escapes them.
class Page {
 public:
  explicit Page(std::string title);

  void heading(const std::string& text);
  void paragraph(const std::string& text);
  void table(const Table& table);
  /// A picture under its title, with an explanation below or none. Throws as draw() does.
  void figure(const Chart& chart, const std::string& caption = "", PictureSize size = {});
  void figure(const HeatMap& map, const std::string& caption = "", PictureSize size = {});

  int figures() const { return static_cast<int>(pictures_.size()); }
  /// The figures' <svg> elements, for svg_file().
  const std::vector<std::string>& pictures() const { return pictures_; }
  std::string html() const;

 private:
  std::string next_name();
  void add_figure(const std::string& svg, const std::string& title, const std::string& caption);

  std::string title_;
  std::string body_;
  std::vector<std::string> pictures_;
};

}  // namespace polymoe
