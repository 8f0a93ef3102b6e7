// `sotto info`: what this machine and this build can do, and for everything they cannot, why.
#include <omp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "command.h"
#include "core/select.h"
#include "cuda/devices.h"
#include "machine.h"
#include "sotto/backend.h"
#include "sotto/version.h"

namespace sotto::cli {
namespace {

using Json = nlohmann::ordered_json;

// CUDA writes 12.4 as 12040.
std::string cuda_version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

Json describe_cuda() {
  const cuda::Devices found = cuda::devices();
  Json devices = Json::array();
  for (const cuda::DeviceInfo& device : found.devices)
    devices.push_back({{"index", device.index},
                       {"name", device.name},
                       {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
                       {"memory_bytes", device.memory}});
  const auto version = [](int number) {
    return number == 0 ? Json(nullptr) : Json(cuda_version(number));
  };
  return {{"usable", found.status.empty() && !found.devices.empty()},
          {"reason", found.status.empty() ? Json(nullptr) : Json(found.status)},
          {"runtime_version", version(found.runtime_version)},
          {"driver_version", version(found.driver_version)},
          {"devices", std::move(devices)}};
}

Json describe() {
  // As any request would be answered, the environment's switches included.
  const Explanation explanation =
      core::select("", "", [](const Backend&) { return Reasons{}; }).explanation;
  const auto all = backends::list();
  Json backends = Json::array();
  for (const BackendAnswer& answer : explanation.answers) {
    const auto backend = std::find_if(all.begin(), all.end(),
                                      [&](const auto& b) { return b->name() == answer.backend; });
    backends.push_back({{"name", answer.backend},
                        {"priority", answer.priority},
                        {"description", (*backend)->description()},
                        {"usable", answer.reasons.empty()},
                        {"reasons", answer.reasons}});
  }
  return {{"version", version()},
          {"cpu",
           {{"model", cpu_model()},
            {"logical_cores", std::thread::hardware_concurrency()},
            {"threads", omp_get_max_threads()},
            {"simd", simd_targets()}}},
          {"cuda", describe_cuda()},
          {"backends", std::move(backends)}};
}

std::string text_of(const Json& value) { return value.get<std::string>(); }

void print_text(const Json& info) {
  const Json& cpu = info["cpu"];
  fmt::print("sotto    {}\n", text_of(info["version"]));
  fmt::print("CPU      {}, {} logical cores, {} threads used\n", text_of(cpu["model"]),
             cpu["logical_cores"].get<int>(), cpu["threads"].get<int>());
  fmt::print("SIMD     {}\n", fmt::join(cpu["simd"].get<std::vector<std::string>>(), ", "));

  const Json& gpu = info["cuda"];
  if (!gpu["reason"].is_null()) fmt::print("CUDA     {}\n", text_of(gpu["reason"]));
  if (!gpu["runtime_version"].is_null())
    fmt::print("CUDA     built with {}, driver for {}\n", text_of(gpu["runtime_version"]),
               gpu["driver_version"].is_null() ? "none" : text_of(gpu["driver_version"]));
  for (const Json& device : gpu["devices"])
    fmt::print("  GPU {}  {}, compute capability {}, {:.0f} GiB\n", device["index"].get<int>(),
               text_of(device["name"]), text_of(device["compute_capability"]),
               device["memory_bytes"].get<double>() / (1 << 30));

  fmt::print("\nBackends, in the order in which they are asked\n");
  for (const Json& backend : info["backends"]) {
    const bool usable = backend["usable"].get<bool>();
    fmt::print("  {:<12}{:<10}{}\n", text_of(backend["name"]), usable ? "usable" : "unusable",
               text_of(backend["description"]));
    for (const Json& reason : backend["reasons"]) fmt::print("{:24}- {}\n", "", text_of(reason));
  }
}

}  // namespace

Command add_info(CLI::App& app) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* info =
      app.add_subcommand("info", "Show CPU features, GPUs and backends, and why one is unusable");
  info->add_flag("--json", *json, "Print JSON instead of text");
  info->footer("Exit codes\n  0 done, 1 something went wrong, 2 the command line is wrong.");
  return {info, [json] {
            const Json description = describe();
            if (*json)
              fmt::print("{}\n", description.dump(2));
            else
              print_text(description);
          }};
}

}  // namespace sotto::cli
