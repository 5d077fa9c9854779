// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

/// One direction of a chart.
struct Axis {
  std::string label = {};
  bool logarithmic = false;
  bool whole = false;                         // numbers of things: no ticks between them
  std::optional<double> low = {}, high = {};  // default: what the values need
  /// Names of the places 0, 1, ... instead of numbers.
  std::vector<std::string> places = {};
};

/// A row of points. A value that is not finite, or not positive on a logarithmic axis, leaves a
/// gap.
struct Series {
  enum class Style : std::uint8_t { line, points, line_points, steps, bars };
  /// How `low` and `high` show.
  enum class Spread : std::uint8_t { band, bars };

  std::string name = {};  // in the legend; empty: not there
  std::vector<double> x = {}, y = {};
  std::vector<double> low = {}, high = {};  // of y; both empty: no spread
  Style style = Style::line;
  Spread spread = Spread::band;
  /// Which colour and dash; series of one number look alike. Negative: the series' place in the
  /// chart.
  int look = -1;
  bool faint = false;  // behind the others, without a place in the legend
};

struct Chart {
  std::string title = {};
  Axis x = {}, y = {};
  std::vector<Series> series = {};
};

/// A grid of colours. Row 0 is at the top.
struct HeatMap {
  std::string title = {};
  std::string x_label = {}, y_label = {}, value_label = {};
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values = {};  // [rows, columns]; one that is not finite stays blank
  /// Names of rows and columns; empty: numbered from 0, or where `column_places` gives numbers,
  /// these (rising).
  std::vector<std::string> row_names = {}, column_names = {};
  std::vector<double> column_places = {};
  std::optional<double> low = {}, high = {};
  /// Values lie on both sides of a middle, `center`: two colours that meet there. `low`, where it
  /// is given, lies below it.
  std::optional<double> center = {};
};

struct Table {
  std::string title = {};
  std::vector<std::string> columns = {};
  std::vector<std::vector<std::string>> rows = {};  // the cells of each
};

/// At most about `most` points of a line that look like all of them: of each of most / 2 stretches
/// of points the lowest and the highest. Takes the spread along. Series that are short enough stay
/// as they are.
Series decimated(const Series& series, std::size_t most);

}  // namespace polymoe
