#include "models/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "models/file_error.h"

namespace sotto::models {

MappedFile::MappedFile(const std::filesystem::path& path) : name_(path.string()) {
  const auto fail = [&](const std::string& problem) { throw FileError(name_, "file", problem); };
  const auto fail_with_errno = [&](const std::string& what) {
    fail(what + ": " + std::strerror(errno));
  };
  // Without O_NONBLOCK, opening a named pipe would wait for its other end.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail_with_errno("cannot be opened");
  const auto closer = [](const int* d) { ::close(*d); };
  const std::unique_ptr<const int, decltype(closer)> guard(&descriptor, closer);

  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail_with_errno("cannot be examined");
  if (!S_ISREG(status.st_mode)) fail("is not a regular file");
  if (status.st_size == 0) fail("is empty");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) fail_with_errno("cannot be mapped into memory");
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

}  // namespace sotto::models
