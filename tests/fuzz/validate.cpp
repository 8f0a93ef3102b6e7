// Every operation's arguments, legal and not, as far as one comes without looking at data: checks,
// every backend's rules, plans and explain(). The tensors' addresses lead nowhere.
#include "requests.h"
#include "target.h"

using namespace sotto;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  fuzz::Memory memory(fuzz::Memory::Kind::none, 0);
  fuzz::Requests requests(input, memory);
  fuzz::attempt([&] {
    switch (input.between(0, 7)) {
      case 0:
      case 1: {
        const AttentionArgs args = requests.attention();
        const AttentionPlan plan(args);
        const Problem problem = describe(args);
        fuzz::require(explain(args).text().size() > 0, "a request that has a plan is explained");
        fuzz::require(problem == describe(args), "a request is described the same twice");
        break;
      }
      case 2:
      case 3: {
        const AttentionArgs args = requests.attention(fuzz::Requests::For::sdpa);
        const SdpaPlan plan(args, requests.sdpa_options());
        fuzz::require(!plan.backend().empty(), "a plan has a backend");
        break;
      }
      case 4:
        explain(requests.quantize());
        break;
      case 5:
        explain(requests.channel_mean());
        break;
      case 6:
        explain(requests.append());
        break;
      default:
        explain(requests.merge());
    }
  });
  return 0;
}
