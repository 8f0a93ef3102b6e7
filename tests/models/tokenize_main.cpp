// Prints the token ids of standard input in a model's own vocabulary, one a line: what the Python
// tests compare with other tokenizers.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>

#include "models/model_file.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: sotto_tokenize MODEL < TEXT\n");
    return 2;
  }
  try {
    const auto model = sotto::models::load_model(argv[1]);
    if (!model.tokenizer) {
      fmt::print(stderr, "{}: has no tokenizer\n", argv[1]);
      return 1;
    }
    const std::string text(std::istreambuf_iterator<char>(std::cin), {});
    for (const auto id : model.tokenizer->encode(text)) fmt::print("{}\n", id);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
