#include "svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace sotto::cli {
namespace {

// Okabe and Ito.
constexpr std::array<const char*, 8> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#e69f00", "#56b4e9", "#7f7f7f", "#000000"};

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

const char* color(std::size_t series) { return kColors[series % kColors.size()]; }

std::string label(double x, double y, const char* anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escape(text));
}

std::string line(double x0, double y0, double x1, double y1, const char* stroke) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x0, y0, x1,
      y1, stroke);
}

std::string inline_svg(const Picture& picture) {
  return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
                     picture.width, picture.height, escape(picture.name), picture.body);
}

std::string svg_file(std::string_view title, const std::vector<Picture>& pictures) {
  constexpr double kMargin = 20, kTitle = 40;
  double width = 0, height = kTitle;
  std::string body = fmt::format("<text x=\"{}\" y=\"28\" font-weight=\"bold\">{}</text>\n",
                                 kMargin, escape(title));
  for (const Picture& picture : pictures) {
    body += fmt::format("<g transform=\"translate(0 {})\" aria-label=\"{}\">\n{}</g>\n", height,
                        escape(picture.name), picture.body);
    width = std::max(width, picture.width);
    height += picture.height + kMargin;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{2}</svg>\n",
      width, height, body);
}

Axis log_axis(const std::vector<Bar>& bars) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const Bar& bar : bars) {
    low = std::min(low, bar.value);
    high = std::max(high, bar.value);
  }
  const double first = std::ceil(std::log10(low)) - 1;
  const double last = std::max(first + 1, std::ceil(std::log10(high)));
  Axis axis;
  for (double exponent = first; exponent <= last; ++exponent)
    axis.ticks.push_back(std::pow(10, exponent));
  axis.position = [first, last](double value) {
    return (std::log10(value) - first) / (last - first);
  };
  return axis;
}

Axis linear_axis(double most) {
  // Steps of 1, 2 or 5 times a power of ten: five to ten of them.
  const double decade = std::pow(10, std::floor(std::log10(most)));
  const double step = most / decade < 2 ? decade / 5 : most / decade < 5 ? decade / 2 : decade;
  Axis axis;
  const double end = step * std::ceil(most / step);
  for (int i = 0; i * step <= end * 1.0001; ++i) axis.ticks.push_back(i * step);
  axis.position = [end](double value) { return value / end; };
  return axis;
}

Picture bar_chart(const std::vector<Bar>& bars, const Axis& axis, const std::string& title,
                  const std::vector<Marker>& markers) {
  constexpr double kWidth = 860, kLeft = 250, kRight = 90, kStep = 30;
  const double top = 10 + 16 * static_cast<double>(markers.size());
  const double bottom = top + kStep * static_cast<double>(bars.size());
  const auto x = [&](double value) {
    return kLeft + (kWidth - kLeft - kRight) * axis.position(value);
  };
  std::string body;
  for (const double tick : axis.ticks) {
    body += line(x(tick), top, x(tick), bottom, "#ddd");
    body += label(x(tick), bottom + 18, "middle", fmt::format("{:g}", tick));
  }
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = top + kStep * static_cast<double>(i);
    const double end = x(bars[i].value);
    body += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", kLeft,
        y + 5, end - kLeft, kStep - 10, bars[i].color);
    body += label(kLeft - 8, y + kStep / 2 + 4, "end", bars[i].name);
    body += label(end + 6, y + kStep / 2 + 4, "start", bars[i].value_text);
  }
  double text = 12;
  for (const Marker& marker : markers) {
    body += line(x(marker.value), text + 3, x(marker.value), bottom, "#555");
    body += label(x(marker.value) - 4, text, "end", marker.name);
    text += 16;
  }
  body += label((kLeft + kWidth - kRight) / 2, bottom + 40, "middle", title);
  return {kWidth, bottom + 50, title, body};
}

}  // namespace sotto::cli
