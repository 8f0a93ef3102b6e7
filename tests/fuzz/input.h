// The bytes that a fuzzer gives, read as numbers and choices. Behind their end everything is 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string_view>

namespace sotto::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  template <class T>
  T bits() {
    T value{};
    const std::size_t n = std::min(sizeof(T), size_);
    if (n > 0) std::memcpy(&value, data_, n);
    data_ += n;
    size_ -= n;
    return value;
  }
  bool flag() { return bits<std::uint8_t>() & 1; }
  bool one_in(int n) { return bits<std::uint8_t>() % n == n - 1; }  // never at the end
  // high - low < 256
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + bits<std::uint8_t>() % (high - low + 1);
  }
  template <class T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[bits<std::uint8_t>() % list.size()];
  }
  std::string_view text(std::size_t most) {
    const std::size_t n = std::min(most, size_);
    const std::string_view text(reinterpret_cast<const char*>(data_), n);
    data_ += n;
    size_ -= n;
    return text;
  }
  std::string_view rest() { return text(size_); }

  // A number that sizes, strides and lengths stumble over.
  std::int64_t odd_number();

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

inline std::int64_t Input::odd_number() {
  const auto choice = bits<std::uint8_t>();
  if (choice < 64) return choice;
  if (choice < 80) return -static_cast<std::int64_t>(choice - 63);
  if (choice < 110) return bits<std::int64_t>();
  const int exponent = 7 + choice % 57;  // about a power of two
  const auto power =
      static_cast<std::int64_t>(std::uint64_t{1} << static_cast<unsigned>(std::min(exponent, 63)));
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(power) + bits<std::uint8_t>() % 3 -
                                   1);
}

}  // namespace sotto::fuzz
