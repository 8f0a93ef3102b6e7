#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "sotto/backend.h"

namespace sotto {

std::string Explanation::text() const {
  std::size_t width = 0;
  for (const BackendAnswer& answer : answers) width = std::max(width, answer.backend.size());
  std::string text = request + "\n";
  for (const BackendAnswer& answer : answers) {
    const std::string_view verdict = answer.chosen            ? "chosen"
                                     : answer.reasons.empty() ? "able"
                                                              : "no";
    text += fmt::format("  {:<{}}  {:>4}  {}", answer.backend, width, answer.priority, verdict);
    const std::string gap(8 - verdict.size(), ' '), indent(width + 16, ' ');
    for (std::size_t i = 0; i < answer.reasons.size(); ++i) {
      text += fmt::format("{}{}", i == 0 ? gap : "\n" + indent, answer.reasons[i]);
    }
    text += '\n';
  }
  return text;
}

std::ostream& operator<<(std::ostream& out, const Explanation& explanation) {
  return out << explanation.text();
}

}  // namespace sotto
