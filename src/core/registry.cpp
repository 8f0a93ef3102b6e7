#include "core/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <mutex>

#include "core/builtin.h"
#include "core/check.h"
#include "core/environment.h"

namespace sotto {
namespace backends {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<const Backend>> all;  // highest priority first
  std::string activated;

  Registry() {
#ifdef SOTTO_WITH_CUDA
    insert(make_sm90_backend());
#endif
    insert(make_cpu_backend());
    insert(make_reference_backend());
  }

  void insert(std::shared_ptr<const Backend> backend) {
    const auto after = std::find_if(all.begin(), all.end(), [&](const auto& other) {
      return other->priority() < backend->priority();
    });
    all.insert(after, std::move(backend));
  }

  auto find(std::string_view name) {
    return std::find_if(all.begin(), all.end(),
                        [&](const auto& backend) { return backend->name() == name; });
  }

  [[noreturn]] void fail_unknown(std::string_view name) const {
    std::vector<std::string_view> known;
    for (const auto& backend : all) known.push_back(backend->name());
    core::fail("backend", "no backend is named '{}'; known: {}", name, fmt::join(known, ", "));
  }
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

void add(std::shared_ptr<const Backend> backend) {
  if (backend == nullptr) core::fail("backend", "must not be null");
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (r.find(backend->name()) != r.all.end()) {
    core::fail("backend", "the name '{}' is taken", backend->name());
  }
  r.insert(std::move(backend));
}

void remove(std::string_view name) {
  std::shared_ptr<const Backend> removed;  // destroyed after the lock is released
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto found = r.find(name);
  if (found == r.all.end()) r.fail_unknown(name);
  if (r.activated == name) r.activated.clear();
  removed = std::move(*found);
  r.all.erase(found);
}

std::vector<std::shared_ptr<const Backend>> list() { return core::registered().all; }

void activate(std::string_view name) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (r.find(name) == r.all.end()) r.fail_unknown(name);
  r.activated = name;
}

void restore() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  r.activated.clear();
}

std::string current() {
  std::string activated = core::registered().activated;
  return activated.empty() ? core::read_environment().backend : activated;
}

}  // namespace backends

core::Registered core::registered() {
  backends::Registry& r = backends::registry();
  const std::lock_guard lock(r.mutex);
  return {r.all, r.activated};
}

}  // namespace sotto
