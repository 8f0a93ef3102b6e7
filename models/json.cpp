#include "models/json.h"

#include <fmt/format.h>

#include <limits>
#include <unordered_set>
#include <vector>

namespace sotto::models {
namespace {

constexpr int kMaxDepth = 64;

// The library's own text without its name: "parse error at line 1, column 5: ...".
std::string reason(const nlohmann::json::exception& error) {
  const std::string_view text = error.what();
  const std::size_t bracket = text.find("] ");
  std::string shown = excerpt(bracket == std::string_view::npos ? text : text.substr(bracket + 2));
  return "is not valid JSON: " + shown;
}

}  // namespace

nlohmann::json parse_json(const std::string& file, const std::string& field,
                          std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Event event, const nlohmann::json& value) {
    if (depth > kMaxDepth) {
      throw FileError(file, field, fmt::format("JSON is nested more than {} deep", kMaxDepth));
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw FileError(file, field,
                      "the key " + excerpt(value.get<std::string>()) + " is there twice");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    throw FileError(file, field, reason(error));
  }
}

JsonView JsonView::member(const std::string& key, const nlohmann::json& value) const {
  return {value, file_, field_.empty() ? key : field_ + '.' + key};
}

JsonView JsonView::at(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end()) {
    throw FileError(file_, field_.empty() ? key : field_ + '.' + key, "is missing");
  }
  return member(key, *found);
}

std::optional<JsonView> JsonView::find(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return member(key, *found);
}

JsonView JsonView::element(std::size_t index) const {
  return {(*value_)[index], file_, fmt::format("{}[{}]", field_, index)};
}

void JsonView::fail_type(const std::string& expected) const {
  fail("must be " + expected + ", got " + excerpt(value_->dump().substr(0, 200)));
}

std::int64_t JsonView::integer() const {
  if (!value_->is_number_integer()) fail_type("an integer");
  if (value_->is_number_unsigned() &&
      value_->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail_type("an integer below 2^63");
  }
  return value_->get<std::int64_t>();
}

double JsonView::number() const {
  if (!value_->is_number()) fail_type("a number");
  return value_->get<double>();
}

bool JsonView::boolean() const {
  if (!value_->is_boolean()) fail_type("true or false");
  return value_->get<bool>();
}

const std::string& JsonView::text() const {
  if (!value_->is_string()) fail_type("a string");
  return value_->get_ref<const std::string&>();
}

const nlohmann::json& JsonView::object() const {
  if (!value_->is_object()) fail_type("an object");
  return *value_;
}

const nlohmann::json& JsonView::array() const {
  if (!value_->is_array()) fail_type("an array");
  return *value_;
}

}  // namespace sotto::models
