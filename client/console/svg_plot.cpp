// Writes the SVG text of a plot.
#include "client/console/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace dray::console {
namespace {

constexpr double kWidth = 720, kHeight = 440;
constexpr double kLeft = 70, kRight = 20, kTop = 44, kBottom = 56;
constexpr const char* kColours[] = {"#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}

std::string at(const char* attribute, double v) {
  char text[64];
  std::snprintf(text, sizeof text, " %s=\"%.1f\"", attribute, v);
  return text;
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return "<line" + at("x1", x1) + at("y1", y1) + at("x2", x2) + at("y2", y2) + " " + style + "/>\n";
}

std::string text(double x, double y, const std::string& words, const std::string& style) {
  return "<text" + at("x", x) + at("y", y) + " " + style + ">" + escaped(words) + "</text>\n";
}

class Canvas {
 public:
  explicit Canvas(const Plot& plot) : plot_(plot), x_max_(plot.x_max), y_max_(plot.y_max) {
    for (const auto& s : plot.series)
      for (const auto& [x, y] : s.points) {
        if (plot.x_max <= 0) x_max_ = std::max(x_max_, x * 1.02);
        if (plot.y_max <= 0) y_max_ = std::max(y_max_, y * 1.1);
      }
    if (x_max_ <= 0) x_max_ = 1;
    if (y_max_ <= 0) y_max_ = 1;
  }

  std::string axes() const {
    const double x0 = kLeft, x1 = kWidth - kRight, y0 = kHeight - kBottom, y1 = kTop;
    std::string out;
    const double x_step = round_step(x_max_, 8), y_step = round_step(y_max_, 6);
    for (double v = 0; v <= x_max_ * 1.0001; v += x_step) {
      out += line(x(v), y0, x(v), y1, "stroke=\"#d8dee4\"");
      out += text(x(v), y0 + 18, number(v), "text-anchor=\"middle\"");
    }
    for (double v = 0; v <= y_max_ * 1.0001; v += y_step) {
      out += line(x0, y(v), x1, y(v), "stroke=\"#d8dee4\"");
      out += text(x0 - 8, y(v) + 4, number(v), "text-anchor=\"end\"");
    }
    out += line(x0, y0, x1, y0, "stroke=\"#24292f\"") + line(x0, y0, x0, y1, "stroke=\"#24292f\"");
    out += text((x0 + x1) / 2, kHeight - 14, plot_.x_label, "text-anchor=\"middle\"");
    const std::string turn =
        "text-anchor=\"middle\" transform=\"rotate(-90 18 " + number((y0 + y1) / 2) + ")\"";
    out += text(18, (y0 + y1) / 2, plot_.y_label, turn);
    return out + text(kLeft, 24, plot_.title, "font-size=\"16\" font-weight=\"bold\"");
  }

  std::string series(size_t index) const {
    const PlotSeries& s = plot_.series[index];
    const std::string colour = s.dashed ? "#6e7781" : kColours[index % std::size(kColours)];
    std::string out = "<polyline fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"2\"";
    if (s.dashed) out += " stroke-dasharray=\"6 4\"";
    out += " points=\"";
    for (const auto& [px, py] : s.points) out += number(x(px)) + "," + number(y(py)) + " ";
    out += "\"/>\n";
    for (const auto& [px, py] : s.points)
      if (s.marks)
        out +=
            "<circle" + at("cx", x(px)) + at("cy", y(py)) + " r=\"4\" fill=\"" + colour + "\"/>\n";
    const double legend_y = kTop + 16 + 18 * static_cast<double>(index);
    const std::string stroke = "stroke=\"" + colour + "\" stroke-width=\"2\"" +
                               (s.dashed ? " stroke-dasharray=\"6 4\"" : "");
    out += line(kWidth - 190, legend_y - 4, kWidth - 162, legend_y - 4, stroke.c_str());
    return out + text(kWidth - 156, legend_y, s.name, "text-anchor=\"start\"");
  }

 private:
  double x(double v) const { return kLeft + v / x_max_ * (kWidth - kLeft - kRight); }
  double y(double v) const { return kHeight - kBottom - v / y_max_ * (kHeight - kTop - kBottom); }
  const Plot& plot_;
  double x_max_, y_max_;
};

}  // namespace

double round_step(double range, int about) {
  const double raw = range / std::max(about, 1);
  if (!(raw > 0)) return 1;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (raw <= factor * power) return factor * power;
  return 10 * power;
}

std::string svg_of(const Plot& plot) {
  const Canvas canvas(plot);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(kWidth) +
                    " " + number(kHeight) + "\" width=\"" + number(kWidth) + "\" height=\"" +
                    number(kHeight) + "\" font-family=\"sans-serif\" font-size=\"12\">\n" +
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n" + canvas.axes();
  for (size_t i = 0; i < plot.series.size(); ++i) out += canvas.series(i);
  return out + "</svg>\n";
}

}  // namespace dray::console
