// Models in .gguf files, their tokenizers included.
#include "file.h"
#include "models/gguf_model.h"
#include "target.h"

using namespace sotto;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = fuzz::file_of(data, size);
  fuzz::attempt([&] {
    const models::Model model = models::load_gguf(path, models::LoadTokenizer::yes);
    if (model.tokenizer) model.tokenizer->encode("Words, and 12 numbers.");
  });
  return 0;
}
