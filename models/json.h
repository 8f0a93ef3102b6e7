// JSON from files that nobody vouches for.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "models/file_error.h"

namespace sotto::models {

// Parses strictly: FileError for what is no JSON, for a key that an object has twice, and for
// nesting deeper than any model's file.
nlohmann::json parse_json(const std::string& file, const std::string& field, std::string_view text);

// A value with its place in a file, so that whatever is wrong with it can be said by name. Refers
// to the parsed document.
class JsonView {
 public:
  JsonView(const nlohmann::json& value, std::string file, std::string field)
      : value_(&value), file_(std::move(file)), field_(std::move(field)) {}

  [[noreturn]] void fail(const std::string& problem) const {
    throw FileError(file_, field_.empty() ? "document" : field_, problem);
  }

  // A member of this object: at() fails where it is absent, find() gives nothing where it is absent
  // or null.
  JsonView at(const std::string& key) const;
  std::optional<JsonView> find(const std::string& key) const;
  JsonView element(std::size_t index) const;  // of this array, which has it

  // The value, or failure where it is of another type.
  std::int64_t integer() const;
  double number() const;
  bool boolean() const;
  const std::string& text() const;
  const nlohmann::json& object() const;
  const nlohmann::json& array() const;
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }

  const std::string& file() const { return file_; }
  const std::string& field() const { return field_; }

 private:
  JsonView member(const std::string& key, const nlohmann::json& value) const;
  [[noreturn]] void fail_type(const std::string& expected) const;

  const nlohmann::json* value_;
  std::string file_, field_;
};

}  // namespace sotto::models
