// Pictures as SVG, with nothing from outside.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sotto::cli {

// For text and attributes of HTML and SVG.
std::string escape(std::string_view text);

// Distinguishable for colour-blind readers; reused from the start after eight.
const char* color(std::size_t series);

std::string label(double x, double y, const char* anchor, std::string_view text);
std::string line(double x0, double y0, double x1, double y1, const char* stroke);

struct Picture {
  double width, height;
  std::string name;  // what it shows, for those who cannot see it
  std::string body;
};
std::string inline_svg(const Picture& picture);  // as an element of a page
// Pictures below each other as a file of its own.
std::string svg_file(std::string_view title, const std::vector<Picture>& pictures);

struct Bar {
  std::string name, value_text;
  double value;
  const char* color;
};

// Where numbers stand on an axis: position() is 0 at its left end and 1 at its right.
struct Axis {
  std::vector<double> ticks;
  std::function<double(double)> position;
};
Axis log_axis(const std::vector<Bar>& bars);  // from the decade below the smallest value
Axis linear_axis(double most);                // from 0

// A vertical line through all bars.
struct Marker {
  std::string name;
  double value;
};

// Horizontal bars, one below the other; `title` stands under the axis.
Picture bar_chart(const std::vector<Bar>& bars, const Axis& axis, const std::string& title,
                  const std::vector<Marker>& markers = {});

}  // namespace sotto::cli
