#include "spec.h"

#include <cctype>
#include <stdexcept>

namespace sotto::test {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::vector<std::string> expand(std::string_view line) {
  const std::size_t open = line.find('{');
  if (open == std::string_view::npos) return {std::string(line)};
  const std::size_t close = line.find('}', open);
  if (close == std::string_view::npos) {
    throw std::invalid_argument("unclosed brace in: " + std::string(line));
  }
  std::vector<std::string> cases;
  for (const std::string& choice : split(line.substr(open + 1, close - open - 1), ',')) {
    for (const std::string& rest : expand(line.substr(close + 1))) {
      cases.push_back(std::string(line.substr(0, open)) + choice + rest);
    }
  }
  return cases;
}

std::vector<std::string> expand(const std::vector<std::string_view>& lines) {
  std::vector<std::string> cases;
  for (std::string_view line : lines) {
    for (std::string& one : expand(line)) cases.push_back(std::move(one));
  }
  return cases;
}

Spec::Spec(std::string_view text) : text_(text) {
  for (const std::string& word : split(text, ' ')) {
    if (word.empty()) continue;
    std::size_t key_end = word.find('=');
    std::size_t value = key_end + 1;
    if (key_end == std::string::npos) key_end = value = word.find_first_of("0123456789");
    const std::string key = word.substr(0, key_end);
    if (words_.contains(key)) throw std::invalid_argument(key + " twice in: " + text_);
    words_[key] = value == std::string::npos ? "" : word.substr(value);
  }
}

bool Spec::has(const std::string& key) {
  asked_[key] = true;
  return words_.contains(key);
}

std::string Spec::text(const std::string& key, const std::string& otherwise) {
  return has(key) ? words_.at(key) : otherwise;
}

double Spec::number(const std::string& key, double otherwise) {
  return has(key) ? std::stod(words_.at(key)) : otherwise;
}

std::vector<std::int64_t> Spec::list(const std::string& key,
                                     const std::vector<std::int64_t>& otherwise) {
  if (!has(key)) return otherwise;
  std::vector<std::int64_t> values;
  for (const std::string& part : split(words_.at(key), ':')) values.push_back(std::stoll(part));
  return values;
}

std::vector<std::string> Spec::parts(const std::string& key, const std::string& otherwise) {
  return split(text(key, otherwise), '/');
}

void Spec::finish() const {
  for (const auto& [key, value] : words_) {
    if (!asked_.contains(key)) throw std::invalid_argument("unknown word " + key + " in: " + text_);
  }
}

std::uint64_t seed_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string test_name(std::string_view text) {
  std::string name;
  for (char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      name += c;
    } else if (c == '-') {
      name += "minus";
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  return name;
}

}  // namespace sotto::test
