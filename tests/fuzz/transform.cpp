// quantize(), channel_mean(), append_kv() and merge_states() with their data, on every backend.
#include <string_view>

#include "requests.h"
#include "target.h"

using namespace sotto;

namespace {

template <class Args, class Run>
void run_everywhere(Args args, Run&& run) {
  args.backend = "cpu";
  const bool legal = fuzz::attempt([&] { run(args, Stream{}); });
  args.backend = "reference";
  fuzz::require(legal == fuzz::attempt([&] { run(args, Stream{}); }),
                "the backends agree on what is legal");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  fuzz::Memory memory(fuzz::Memory::Kind::exact, input.bits<std::uint32_t>());
  fuzz::Requests requests(input, memory);
  switch (input.between(0, 3)) {
    case 0:
      run_everywhere(requests.quantize(), quantize);
      break;
    case 1:
      run_everywhere(requests.channel_mean(), channel_mean);
      break;
    case 2:
      run_everywhere(requests.append(), append_kv);
      break;
    default:
      run_everywhere(requests.merge(), merge_states);
  }
  return 0;
}
