// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/page.h"

#include <fmt/core.h>
#include <string>
#include <utility>
#include <vector>
#include "launch/reports/drawing.h"
#include "launch/reports/figure.h"

namespace polymoe {
namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

/// Whether a cell holds a number, which is set to the right.
bool is_number(const std::string& cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.,+-eE% \xC2\xB1") == std::string::npos;
}

const char* const page_style =
    ":root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#d8dce1}"
    "@media screen and (prefers-color-scheme:dark){:root{--ground:#15181c;--ink:#dfe3e8;"
    "--soft:#98a2ae;--line:#343a42}}"
    "body{background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:0 "
    "auto;"
    "max-width:1500px;padding:1.5rem}"
    "h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2rem 0 .5rem;"
    "border-bottom:1px solid var(--line)}h3{font-size:.95rem;margin:0 0 .3rem}"
    "p{margin:.4rem 0;max-width:75ch}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));"
    "gap:1.5rem}figure{margin:0;break-inside:avoid}figcaption{color:var(--soft);font-size:.85rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;"
    "font-size:.9rem;margin:.5rem 0}caption{text-align:left;font-weight:600}"
    "th,td{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:left;"
    "white-space:nowrap}td.number{text-align:right}th{color:var(--soft);font-weight:600}"
    "@media print{body{padding:0;max-width:none;font-size:11px}.figures{grid-template-columns:1fr "
    "1fr}"
    "h2{break-after:avoid}}";

}  // namespace

Page::Page(std::string title) : title_(std::move(title)) {}

void Page::heading(const std::string& text) { body_ += "<h2>" + escaped(text) + "</h2>\n"; }
void Page::paragraph(const std::string& text) { body_ += "<p>" + escaped(text) + "</p>\n"; }

void Page::table(const Table& table) {
  body_ += "<div class=\"wide\"><table>";
  if (!table.title.empty()) body_ += "<caption>" + escaped(table.title) + "</caption>";
  body_ += "<thead><tr>";
  for (const std::string& column : table.columns) body_ += "<th>" + escaped(column) + "</th>";
  body_ += "</tr></thead><tbody>";
  for (const std::vector<std::string>& row : table.rows) {
    body_ += "<tr>";
    for (const std::string& cell : row)
      body_ += (is_number(cell) ? "<td class=\"number\">" : "<td>") + escaped(cell) + "</td>";
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
}

void Page::figure(const Chart& chart, const std::string& caption, PictureSize size) {
  add_figure(draw(chart, next_name(), size), chart.title, caption);
}
void Page::figure(const HeatMap& map, const std::string& caption, PictureSize size) {
  add_figure(draw(map, next_name(), size), map.title, caption);
}

std::string Page::next_name() { return fmt::format("figure-{}", figures() + 1); }

void Page::add_figure(const std::string& svg, const std::string& title,
                      const std::string& caption) {
  pictures_.push_back(svg);
  // Figures that follow each other share a grid.
  const std::string grid_end = "</div><!--figures-->\n";
  if (body_.ends_with(grid_end))
    body_.resize(body_.size() - grid_end.size());
  else
    body_ += "<div class=\"figures\">\n";
  body_ += "<figure><h3>" + escaped(title) + "</h3>" + svg;
  if (!caption.empty()) body_ += "<figcaption>" + escaped(caption) + "</figcaption>";
  body_ += "</figure>\n" + grid_end;
}

std::string Page::html() const {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
      "<title>{0}</title><link rel=\"icon\" href=\"data:,\"><style>{1}{2}</style></head>\n"
      "<body><h1>{0}</h1>\n{3}</body></html>\n",
      escaped(title_), page_style, picture_style(), body_);
}

}  // namespace polymoe
