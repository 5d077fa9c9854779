// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/figure.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace polymoe {

Series decimated(const Series& series, std::size_t most) {
  const std::size_t points = series.y.size();
  if (points <= std::max<std::size_t>(most, 2)) return series;
  Series result = series;
  for (std::vector<double>* values : {&result.x, &result.y, &result.low, &result.high})
    values->clear();
  const auto take = [&](std::size_t i) {
    result.x.push_back(series.x[i]);
    result.y.push_back(series.y[i]);
    if (series.low.empty()) return;
    result.low.push_back(series.low[i]);
    result.high.push_back(series.high[i]);
  };
  const std::size_t stretches = std::max<std::size_t>(most / 2, 1);
  for (std::size_t s = 0; s < stretches; ++s) {
    const std::size_t begin = points * s / stretches, end = points * (s + 1) / stretches;
    std::size_t lowest = end, highest = end;
    for (std::size_t i = begin; i < end; ++i) {
      if (!std::isfinite(series.y[i])) continue;
      if (lowest == end || series.y[i] < series.y[lowest]) lowest = i;
      if (highest == end || series.y[i] > series.y[highest]) highest = i;
    }
    if (lowest == end) continue;
    take(std::min(lowest, highest));
    if (lowest != highest) take(std::max(lowest, highest));
  }
  return result;
}

}  // namespace polymoe
