// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "launch/reports/drawing.h"
#include "launch/reports/gnuplot.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;

bool has_gnuplot() { return std::system("gnuplot --version >/dev/null 2>&1") == 0; }
std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size())
    ++found;
  return found;
}

TEST(Decimated, KeepsWhatShows) {
  Series series{.name = "loss"};
  for (int i = 0; i < 10000; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 4321 ? 99.0 : std::sin(i * 0.01));
  }
  series.y[77] = std::nan("");
  const Series thin = decimated(series, 100);
  EXPECT_LE(thin.y.size(), 100U);
  EXPECT_EQ(thin.x.size(), thin.y.size());
  EXPECT_EQ(*std::max_element(thin.y.begin(), thin.y.end()), 99.0);
  EXPECT_TRUE(std::is_sorted(thin.x.begin(), thin.x.end()));
  EXPECT_EQ(decimated(series, 10000).y.size(), 10000U);
  // Of a stretch, the lowest and the highest point.
  EXPECT_LT(*std::min_element(thin.y.begin(), thin.y.end()), -0.999);
}

TEST(ShowsSomething, IsFalseOfWhatItsAxesCannotShow) {
  const auto chart = [](std::vector<double> y, bool logarithmic) {
    return Chart{.title = "balance",
                 .y = {.label = "loss", .logarithmic = logarithmic},
                 .series = {{.name = "run", .x = {1, 2}, .y = std::move(y)}}};
  };
  EXPECT_TRUE(shows_something(chart({0.0, 0.0}, false)));
  EXPECT_FALSE(shows_something(chart({0.0, -1.0}, true)));
  EXPECT_TRUE(shows_something(chart({0.0, 1.0}, true)));
  EXPECT_FALSE(shows_something(chart({std::nan(""), std::nan("")}, false)));
  EXPECT_FALSE(shows_something(Chart{.title = "empty"}));
}

class PictureTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
  }
};

TEST_F(PictureTest, ChartHasEverySeriesAndItsNames) {
  const Chart chart{
      .title = "Loss & more",
      .x = {.label = "step", .logarithmic = true},
      .y = {.label = "loss"},
      .series = {{.name = "it's _one_", .x = {1, 10, 100}, .y = {3, 2, 1}},
                 {.name = "band", .x = {1, 10}, .y = {2, 2}, .low = {1, 1}, .high = {3, 3}},
                 {.name = "errors",
                  .x = {1, 10},
                  .y = {2, 2},
                  .low = {1, 1},
                  .high = {3, 3},
                  .style = Series::Style::points,
                  .spread = Series::Spread::bars},
                 {.name = "nothing", .x = {-1.0}, .y = {1.0}}}};
  const std::string svg = draw(chart, "fig");
  EXPECT_EQ(svg.rfind("<svg", 0), 0U) << svg.substr(0, 80);
  EXPECT_NE(svg.find("aria-label=\"Loss &amp; more\""), std::string::npos);
  for (const char* text : {"it's _one_", ">band<", ">errors<", ">step<", ">loss<"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  EXPECT_EQ(svg.find("nothing"), std::string::npos);       // its point has no place on the axis
  EXPECT_NE(svg.find("fill-opacity"), std::string::npos);  // the band
}

TEST_F(PictureTest, HeatMapNamesRowsAndColumns) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const HeatMap map{.title = "Map",
                    .x_label = "expert",
                    .y_label = "layer",
                    .value_label = "load",
                    .rows = 2,
                    .columns = 3,
                    .values = {0, 1, 2, 3, none, 5},
                    .row_names = {"first", "second"}};
  const std::string svg = draw(map, "fig");
  for (const char* text : {">expert<", ">layer<", ">load<", "first", "second", "<image"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
}

TEST_F(PictureTest, NoTickStandsWhereNothingCanBe) {
  // A load of less than nothing, a layer and a half.
  const HeatMap map{
      .title = "Load", .rows = 1, .columns = 2, .values = {0, 4}, .low = 0.0, .center = 1.0};
  const std::string load = draw(map, "fig");
  EXPECT_EQ(count(load, "<text>-"), 0U);
  EXPECT_EQ(count(load, "<text> 4<"), 1U);
  const Chart chart{.title = "By layer",
                    .x = {.label = "layer", .whole = true},
                    .y = {.label = "rank"},
                    .series = {{.name = "s", .x = {0, 1, 2, 3}, .y = {1, 2, 3, 4}}}};
  const std::string svg = draw(chart, "fig");
  EXPECT_EQ(count(svg, "<text> 1.5<"), 1U);  // of the ranks
  EXPECT_EQ(count(svg, "<text> 3<"), 2U);
}

TEST_F(PictureTest, RefusesWhatCannotBeDrawn) {
  const auto refuse = [](const auto& figure, const std::string& words) {
    const std::string message = message_of<InvalidArgument>([&] { draw(figure, "fig"); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  refuse(Chart{.title = "empty", .x = {}, .y = {}}, "chart 'empty': no series");
  refuse(Chart{.title = "odd", .x = {}, .y = {}, .series = {{.name = "s", .x = {1}, .y = {1, 2}}}},
         "one length");
  refuse(HeatMap{.title = "map", .rows = 2, .columns = 2, .values = {1.0}}, "1 values");
}

TEST_F(PictureTest, PageHoldsItsFiguresWithIdsOfTheirOwn) {
  Page page("A <title>");
  page.heading("Part");
  const Chart chart{
      .title = "One",
      .x = {.label = "x"},
      .y = {.label = "y"},
      .series = {{.name = "s", .x = {1, 2}, .y = {1, 2}, .style = Series::Style::line_points}}};
  page.figure(chart);
  page.figure(chart, "said <below>");
  page.table({.title = "T", .columns = {"name", "value"}, .rows = {{"a&b", "1.5"}}});
  EXPECT_EQ(page.figures(), 2);
  const std::string html = page.html();
  EXPECT_EQ(count(html, "<svg class=\"picture\""), 2U);
  EXPECT_EQ(count(html, "id='figure-1-point6'"), 1U);
  EXPECT_EQ(count(html, "id='figure-2-point6'"), 1U);
  EXPECT_NE(html.find("A &lt;title&gt;"), std::string::npos);
  EXPECT_NE(html.find("said &lt;below&gt;"), std::string::npos);
  EXPECT_NE(html.find("<td>a&amp;b</td><td class=\"number\">1.5</td>"), std::string::npos);
  // Nothing is fetched from elsewhere; the names of XML's vocabularies are none.
  EXPECT_EQ(count(html, "http"), count(html, "xmlns"));
}

TEST(Gnuplot, IsNamedWhereItIsMissing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const std::string message = message_of<InvalidArgument>([] { run_gnuplot(""); });
  setenv("PATH", path.c_str(), 1);
  EXPECT_NE(message.find("install gnuplot-nox"), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe
