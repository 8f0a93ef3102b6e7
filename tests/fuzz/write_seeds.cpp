// fuzz_seeds FOLDER writes FOLDER/<target>/seed<n>.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "seeds.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: fuzz_seeds FOLDER\n");
    return 2;
  }
  int number = 0;
  for (const sotto::fuzz::Seed& seed : sotto::fuzz::seeds()) {
    const std::filesystem::path folder = std::filesystem::path(argv[1]) / seed.target;
    std::filesystem::create_directories(folder);
    std::ofstream(folder / fmt::format("seed{}", number++), std::ios::binary) << seed.content;
  }
  return 0;
}
