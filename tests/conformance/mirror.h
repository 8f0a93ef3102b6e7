// Requests whose tensors lie in host memory, brought to where a backend computes and back.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/each_tensor.h"
#include "device_memory.h"

namespace sotto::test {

// The current GPU for the backends that compute on one, the CPU for all others.
Device device_of(std::string_view backend);

class Mirror {
 public:
  explicit Mirror(std::string_view backend) : device_(device_of(backend)) {}

  // The request with its tensors on the device, bytes in gaps included; on the CPU as it is.
  template <class Args>
  Args place(Args args) {
    if (device_.type == DeviceType::cpu) return args;
    core::each_tensor(args, [&](const char* name, core::Access access, Tensor& tensor) {
      if (tensor) tensor = place(tensor, name, access);
    });
    return args;
  }
  Tensor place(const Tensor& host, const char* name, core::Access access);

  // Memory to work in, on the device, exactly as long, with these bytes in it.
  Workspace workspace(std::size_t bytes, int garbage = 0xff);

  // Waits, and copies what may have been written back to the host. Throws where the device failed
  // or an input was written.
  void read_back();

 private:
  struct Copy {
    const char* name;
    core::Access access;
    std::byte* host;
    std::shared_ptr<std::byte> device;
    std::vector<Piece> pieces;
  };

  Device device_;
  std::vector<Copy> copies_;
  std::vector<std::shared_ptr<std::byte>> workspaces_;
};

}  // namespace sotto::test
