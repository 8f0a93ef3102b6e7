#include "output_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <system_error>

#include "sotto/error.h"

namespace sotto::cli {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& why) {
  throw Error(path.string() + ": cannot write: " + why);
}

std::filesystem::path write_beside(const std::filesystem::path& path,
                                   const std::function<void(std::ostream&)>& write) {
  if (std::filesystem::is_directory(path)) fail(path, "it is a folder");
  std::filesystem::path beside = path;
  beside += ".tmp" + std::to_string(getpid());
  errno = 0;
  std::ofstream file(beside, std::ios::binary);
  write(file);
  file.close();
  if (!file) {
    const int error = errno;
    std::error_code ignored;
    std::filesystem::remove(beside, ignored);
    fail(path, std::strerror(error));
  }
  return beside;
}

}  // namespace

void check_writable(const std::filesystem::path& path) {
  std::filesystem::remove(write_beside(path, [](std::ostream&) {}));
}

void write_file(const std::filesystem::path& path,
                const std::function<void(std::ostream&)>& write) {
  const std::filesystem::path beside = write_beside(path, write);
  std::error_code error;
  std::filesystem::rename(beside, path, error);
  if (!error) return;
  std::error_code ignored;
  std::filesystem::remove(beside, ignored);
  fail(path, error.message());
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  write_file(path, [text](std::ostream& file) { file << text; });
}

}  // namespace sotto::cli
