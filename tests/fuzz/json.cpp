// The JSON files of Hugging Face models: config.json, tokenizer.json.
#include "models/hf_config.h"
#include "models/hf_tokenizer.h"
#include "target.h"

using namespace sotto;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  fuzz::attempt([&] {
    const auto document = models::parse_json("file", "document", input.rest());
    const models::JsonView root(document, "file", "");
    fuzz::attempt([&] { models::read_hf_config(root); });
    fuzz::attempt([&] { models::read_hf_tokenizer(root, 1000).encode("A few 12 words"); });
  });
  return 0;
}
