// SvgPlot: a small line plot as an SVG file: axes with round ticks, labels, lines, points, a
// legend.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace dray::console {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x, y; by x
  bool dashed = false;  // a line to compare with
  bool marks = true;
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;
  double x_max = 0, y_max = 0;  // 0: as the points want; both axes start at 0
};

std::string svg_of(const Plot& plot);

// 1, 2 or 5 times a power of ten, so that about `about` steps reach `range`.
double round_step(double range, int about);

}  // namespace dray::console
