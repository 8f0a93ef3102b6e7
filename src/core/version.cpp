#include "sotto/version.h"

#define SOTTO_TEXT_OF(x) #x
#define SOTTO_TEXT(x) SOTTO_TEXT_OF(x)

namespace sotto {

std::string_view version() {
  return SOTTO_TEXT(SOTTO_VERSION_MAJOR) "." SOTTO_TEXT(SOTTO_VERSION_MINOR) "." SOTTO_TEXT(
      SOTTO_VERSION_PATCH);
}

}  // namespace sotto
