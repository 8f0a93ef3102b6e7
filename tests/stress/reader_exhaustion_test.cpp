// As exhaustion_test.cpp, for the readers of files.
#include "exhaust.h"
#include "models/gguf_model.h"
#include "models/npy.h"
#include "tests/fuzz/file.h"
#include "tests/fuzz/seeds.h"

namespace sotto::test {
namespace {

// Not of JSON: nlohmann::json allocates where it is destroyed, and ends the program where it
// cannot.
TEST(Exhaustion, Readers) {
  for (const auto& [target, content] : fuzz::seeds()) {
    const auto path =
        fuzz::file_of(reinterpret_cast<const std::uint8_t*>(content.data()), content.size());
    if (target == "gguf") {
      exhaust(target, [&] {
        models::load_gguf(path, models::LoadTokenizer::yes).tokenizer->encode("abba b");
      });
    } else if (content.starts_with("\x93NUMPY")) {
      exhaust(target, [&] { models::NpyFile file(path); });
    }
  }
}

}  // namespace
}  // namespace sotto::test
