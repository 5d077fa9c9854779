// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/reports/figure.h"
#include "launch/reports/gnuplot.h"
#include "launch/reports/svg_element.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

struct Colour {
  int red, green, blue;
};
/// A colour on light ground and the one that takes its place on dark ground.
struct ColourPair {
  Colour light, dark;
};

/// Told apart by colour-blind eyes too (after Okabe and Ito), and from eight on by dashes.
constexpr std::array<ColourPair, 8> series_colours = {{{{0, 114, 178}, {86, 166, 233}},
                                                       {{213, 94, 0}, {255, 133, 51}},
                                                       {{0, 133, 97}, {38, 196, 148}},
                                                       {{174, 74, 137}, {228, 150, 195}},
                                                       {{156, 112, 0}, {230, 181, 41}},
                                                       {{42, 137, 196}, {148, 207, 246}},
                                                       {{90, 90, 90}, {190, 190, 190}},
                                                       {{107, 63, 160}, {178, 145, 224}}}};
constexpr ColourPair grid = {{221, 221, 221}, {58, 62, 68}};
constexpr const char* dark_ink = "#d5d8dc";

/// As gnuplot writes it.
std::string svg_colour(const Colour& c) {
  return fmt::format("rgb({:3}, {:3}, {:3})", c.red, c.green, c.blue);
}
std::string script_colour(const Colour& c, int transparency = 0) {
  return fmt::format("rgb \"#{:02x}{:02x}{:02x}{:02x}\"", transparency, c.red, c.green, c.blue);
}

/// A text between single quotes.
std::string gnuplot_text(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') result += '\'';
    result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result + "'";
}

std::string number(double value) {
  return std::isfinite(value) ? fmt::format("{:.6g}", value) : "NaN";
}

std::string head(PictureSize size) {
  return fmt::format(
      "set encoding utf8\n"
      "set terminal svg size {},{} dynamic noenhanced font ',13' name 'plot'\n"
      "set pointintervalbox 0\n"
      "set border 3 lw 0.8\nset tics out nomirror scale 0.6\n",
      size.width, size.height);
}

std::string range(const Axis& axis) {
  const auto end = [](const std::optional<double>& value) {
    return value ? number(*value) : std::string("*");
  };
  return fmt::format("[{}:{}]", end(axis.low), end(axis.high));
}

/// Ticks of a logarithmic axis over few decades, where those of the decades alone say too little.
std::string fine_ticks(const char* name, double low, double high) {
  if (!(low > 0.0) || high / low > 50.0 || !(high > low)) return "";
  std::vector<std::string> tics;
  if (high / low < 3.0) {  // nearly linear: even ones
    const double rough = (high - low) / 5.0, decade = std::pow(10.0, std::floor(std::log10(rough)));
    const double step = decade * (rough / decade < 1.5 ? 1.0 : rough / decade < 3.5 ? 2.0 : 5.0);
    for (double at = std::ceil(low / step) * step; at <= high; at += step)
      tics.push_back(number(at));
  } else {
    for (double decade = std::pow(10.0, std::floor(std::log10(low))); decade <= high;
         decade *= 10.0)
      for (const double step : {1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0})
        tics.push_back(number(decade * step));
  }
  return fmt::format("set {}tics ({})\n", name, fmt::join(tics, ", "));
}

std::string axis_lines(const char* name, Axis axis, double low, double high) {
  if (axis.logarithmic) {  // gnuplot would go on to the next tick
    const double margin = high / low > 1.001 ? std::pow(high / low, 0.03) : 1.05;
    if (!axis.low) axis.low = low / margin;
    if (!axis.high) axis.high = high * margin;
  }
  std::string text = fmt::format("set {0}label {1}\nset {0}range {2}\n", name,
                                 gnuplot_text(axis.label), range(axis));
  if (axis.logarithmic)
    text += fmt::format("set logscale {0}\nset format {0} '%g'\n", name) +
            fine_ticks(name, *axis.low, *axis.high);
  constexpr double most_whole = 12.0;
  if (axis.whole && high - low <= most_whole) text += fmt::format("set {}tics 1\n", name);
  if (!axis.places.empty()) {
    std::vector<std::string> tics;
    for (std::size_t i = 0; i < axis.places.size(); ++i)
      tics.push_back(fmt::format("{} {}", gnuplot_text(axis.places[i]), i));
    std::size_t letters = 0;
    for (const std::string& place : axis.places) letters += place.size() + 2;
    const bool slanted = name[0] == 'x' && letters > 55;
    text += fmt::format("set {}tics ({}){}\n", name, fmt::join(tics, ", "),
                        slanted ? " rotate by -25" : "");
    if (!axis.low && !axis.high)
      text += fmt::format("set {}range [-0.6:{}]\n", name,
                          static_cast<double>(axis.places.size()) - 0.4);
  }
  return text;
}

bool shows(const Chart& chart, const Series& series, std::size_t i) {
  return std::isfinite(series.x[i]) && std::isfinite(series.y[i]) &&
         (!chart.x.logarithmic || series.x[i] > 0.0) && (!chart.y.logarithmic || series.y[i] > 0.0);
}

/// The series without points that cannot be shown at its ends, checked; empty where none can.
bool any_shows(const Chart& chart, const Series& series) {
  const std::size_t points = series.y.size();
  if (series.x.size() != points || series.low.size() != series.high.size() ||
      (!series.low.empty() && series.low.size() != points))
    throw InvalidArgument(
        fmt::format("chart '{}', series '{}': x, y, low and high must have one length", chart.title,
                    series.name));
  for (std::size_t i = 0; i < points; ++i)
    if (shows(chart, series, i)) return true;
  return false;
}

std::string style_of(const Series& series) {
  switch (series.style) {
    case Series::Style::line:
      return "lines";
    case Series::Style::points:
      return "points";
    case Series::Style::line_points:
      return "linespoints";
    case Series::Style::steps:
      return "fillsteps";
    case Series::Style::bars:
      return "boxes";
  }
  return "lines";
}

struct Extent {
  double low = INFINITY, high = -INFINITY;
  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

struct Plot {
  Extent x, y;
  std::string data;                // blocks
  std::vector<std::string> parts;  // of the plot command
};

void add_series(const Chart& chart, const Series& given, int look, Plot& plot) {
  constexpr std::size_t most_points = 600;
  const Series series = given.style == Series::Style::bars ? given : decimated(given, most_points);
  const std::string block = fmt::format("$d{}", plot.parts.size());
  plot.data += block + " << EOD\n";
  for (std::size_t i = 0; i < series.y.size(); ++i) {
    if (!shows(chart, series, i)) {
      plot.data += "\n";  // a gap
      continue;
    }
    plot.x.take(series.x[i]);
    plot.y.take(series.y[i]);
    plot.data += number(series.x[i]) + " " + number(series.y[i]);
    if (!series.low.empty()) {
      double low = series.low[i];
      if (chart.y.logarithmic && !(low > 0.0)) low = series.y[i] / 10.0;
      plot.data += " " + number(low) + " " + number(series.high[i]);
    }
    plot.data += "\n";
  }
  plot.data += "EOD\n";
  const ColourPair& pair = series_colours[static_cast<std::size_t>(look) % series_colours.size()];
  const std::string colour = script_colour(pair.light);
  const int dash = look / static_cast<int>(series_colours.size()) % 4 + 1;
  const std::string title =
      series.name.empty() || series.faint ? "notitle" : "title " + gnuplot_text(series.name);
  const bool bars = series.style == Series::Style::bars;
  if (!series.low.empty() && series.spread == Series::Spread::band)
    plot.parts.push_back(fmt::format(
        "{} using 1:3:4 with filledcurves fc {} fs transparent solid 0.18 noborder notitle", block,
        colour));
  const std::string fill =
      bars || series.style == Series::Style::steps
          ? fmt::format(" fc {} fs transparent solid {} border lc {}", colour,
                        bars ? "0.55" : "0.25", colour)
          : fmt::format(" lc {}{}", script_colour(pair.light, series.faint ? 0x90 : 0),
                        series.style == Series::Style::line ? "" : " pt 7 ps 0.4");
  plot.parts.push_back(fmt::format("{} using 1:2 with {}{} lw {} dt {} {}", block, style_of(series),
                                   fill, series.faint ? 0.5 : 1.7, dash, title));
  if (!series.low.empty() && series.spread == Series::Spread::bars)
    plot.parts.push_back(
        fmt::format("{} using 1:2:3:4 with yerrorbars lc {} pt 7 ps {} lw 1.2 "
                    "notitle",
                    block, bars ? "rgb \"black\"" : colour, bars ? 0.0 : 0.4));
}

std::string ticks_of(const char* axis, const std::vector<std::string>& names,
                     const std::vector<double>& places, std::int64_t count) {
  // As many as stay readable.
  const std::int64_t most = axis[0] == 'x' ? 16 : 32;
  const std::int64_t step = divide_up(count, most);
  std::vector<std::string> tics;
  for (std::int64_t i = 0; i < count; i += step) {
    const auto at = static_cast<std::size_t>(i);
    const std::string name = at < names.size()    ? names[at]
                             : at < places.size() ? fmt::format("{:g}", places[at])
                                                  : std::to_string(i);
    tics.push_back(fmt::format("{} {}", gnuplot_text(name), i));
  }
  return fmt::format("set {}tics ({}){}\n", axis, fmt::join(tics, ", "),
                     axis[0] == 'x' && !names.empty() && count > 6 ? " rotate by -40" : "");
}

}  // namespace

bool shows_something(const Chart& chart) {
  return std::ranges::any_of(chart.series,
                             [&](const Series& series) { return any_shows(chart, series); });
}

std::string draw(const Chart& chart, const std::string& name, PictureSize size) {
  Plot plot;
  std::vector<const Series*> legend;
  int place = 0;
  // Bars of several series at named places stand beside each other.
  const auto is_bars = [](const Series& series) { return series.style == Series::Style::bars; };
  const auto bars = std::count_if(chart.series.begin(), chart.series.end(), is_bars);
  const bool groups = bars > 1 && !chart.x.places.empty();
  const double width = 0.8 / static_cast<double>(std::max<std::ptrdiff_t>(bars, 1));
  std::ptrdiff_t bar = 0;
  for (const Series& series : chart.series) {
    const int look = series.look >= 0 ? series.look : place++;
    if (!any_shows(chart, series)) continue;
    if (groups && is_bars(series)) {
      Series shifted = series;
      const double offset =
          (static_cast<double>(bar++) - 0.5 * static_cast<double>(bars - 1)) * width;
      for (double& x : shifted.x) x += offset;
      add_series(chart, shifted, look, plot);
    } else {
      add_series(chart, series, look, plot);
    }
    if (!series.name.empty() && !series.faint) legend.push_back(&series);
  }
  if (plot.parts.empty())
    throw InvalidArgument(fmt::format("chart '{}': no series has a point to show", chart.title));
  std::string script = head(size);
  script += fmt::format("set grid lc {} lt 1 lw 0.6\n", script_colour(grid.light));
  script += axis_lines("x", chart.x, plot.x.low, plot.x.high);
  script += axis_lines("y", chart.y, plot.y.low, plot.y.high);
  // Names that fit stand below the chart, in columns.
  if (legend.size() < 2 && (legend.empty() || chart.series.size() == 1))
    script += "unset key\n";
  else
    script += "set key below left Left reverse samplen 2.5 spacing 1.05 height 0.6\n";
  script += groups ? fmt::format("set boxwidth {} absolute\n", 0.9 * width)
                   : std::string("set boxwidth 0.7 relative\n");
  script += "set style fill transparent solid 0.5\n";
  script += plot.data;
  script += fmt::format("plot {}\n", fmt::join(plot.parts, ", \\\n  "));
  return svg_element(run_gnuplot(script), name, chart.title);
}

std::string draw(const HeatMap& map, const std::string& name, PictureSize size) {
  if (map.rows < 1 || map.columns < 1 ||
      static_cast<std::int64_t>(map.values.size()) != map.rows * map.columns)
    throw InvalidArgument(fmt::format("heat map '{}': {} rows, {} columns, {} values", map.title,
                                      map.rows, map.columns, map.values.size()));
  double low = INFINITY, high = -INFINITY;
  for (const double value : map.values) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (low > high)
    throw InvalidArgument(fmt::format("heat map '{}': no cell has a value", map.title));
  low = map.low.value_or(low);
  high = map.high.value_or(high);
  std::string palette =
      "set palette defined (0 '#440154', 0.25 '#3b528b', 0.5 '#21918c', 0.75 '#5ec962', 1 "
      "'#fde725') maxcolors 64\n";
  if (map.center) {
    const double center = *map.center;
    const double reach = map.low ? center - low : std::max({high - center, center - low, 1e-12});
    if (!map.low) low = center - reach;
    high = std::max(high, center + reach);
    // The colours meet at the middle, however far it is to the ends.
    const double middle = (center - low) / (high - low);
    palette = fmt::format(
        "set palette defined (0 '#2166ac', {} '#92c5de', {} '#f2f2f2', {} '#f4a582', 1 "
        "'#b2182b') maxcolors 64\n",
        number(middle / 2.0), number(middle), number((1.0 + middle) / 2.0));
  }
  if (!(high > low)) high = low + (low == 0.0 ? 1.0 : std::abs(low) * 0.01);
  std::string script = head(size) + palette;
  script += fmt::format("set border lw 0.5\nset xlabel {}\nset ylabel {}\nset cblabel {}\n",
                        gnuplot_text(map.x_label), gnuplot_text(map.y_label),
                        gnuplot_text(map.value_label));
  script += fmt::format("set cbrange [{}:{}]\n", number(low), number(high));
  script +=
      fmt::format("set xrange [-0.5:{}]\nset yrange [{}:-0.5]\nunset key\n",
                  static_cast<double>(map.columns) - 0.5, static_cast<double>(map.rows) - 0.5);
  script += ticks_of("x", map.column_names, map.column_places, map.columns);
  script += ticks_of("y", map.row_names, {}, map.rows);
  script += "$d << EOD\n";
  for (std::int64_t row = 0; row < map.rows; ++row) {
    for (std::int64_t column = 0; column < map.columns; ++column)
      script += number(map.values[static_cast<std::size_t>(row * map.columns + column)]) + " ";
    script += "\n";
  }
  script += "EOD\nplot $d matrix with image\n";
  return svg_element(run_gnuplot(script), name, map.title);
}

std::string picture_style() {
  std::string rules =
      "svg.picture{width:100%;height:auto;max-width:720px}"
      "svg.picture image{image-rendering:pixelated}"
      "@media screen and (prefers-color-scheme:dark){";
  rules += fmt::format(
      "svg.picture g[color=black]{{color:{0}}}svg.picture [fill=black]{{fill:{0}}}"
      "svg.picture [stroke=black],svg.picture [stroke=\"rgb(  0,   0,   0)\"]{{stroke:{0}}}",
      dark_ink);
  const auto pair = [&](const ColourPair& colours) {
    const std::string from = svg_colour(colours.light), to = svg_colour(colours.dark);
    rules += fmt::format(
        "svg.picture [stroke=\"{0}\"]{{stroke:{1}}}svg.picture [fill=\"{0}\"]{{fill:{1}}}"
        "svg.picture [color=\"{0}\"]{{color:{1}}}",
        from, to);
  };
  for (const ColourPair& colours : series_colours) pair(colours);
  pair(grid);
  return rules + "}";
}

std::string svg_file(const std::string& element) {
  std::string file = element;
  const std::size_t open_end = file.find('>');
  file.insert(open_end + 1, "<style>" + picture_style() + "</style>");
  return "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n" + file;
}

}  // namespace polymoe
