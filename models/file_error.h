// What is wrong with a file, as an exception.
#pragma once

#include <string>
#include <string_view>

#include "sotto/error.h"

namespace sotto::models {

// what() reads "<file>: <field>: <problem>". The field is the file's own name for the thing: a
// metadata key, a tensor, a JSON path.
class FileError : public Error {
 public:
  FileError(const std::string& file, const std::string& field, const std::string& problem);
};

// `text` in quotes, short and printable whatever a file put in it: what an error says it saw.
std::string excerpt(std::string_view text);

}  // namespace sotto::models
