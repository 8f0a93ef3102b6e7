// Plans that were made before: a call that is like an earlier one spends no time on planning.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sotto/backend.h"

namespace sotto::bridge {

// The plans of the last kCapacity different keys. Thread-safe.
template <class Key, class Plan>
class PlanCache {
 public:
  // The plan for the key, made by make() where there is none.
  template <class Make>
  std::shared_ptr<const Plan> get(const Key& key, Make&& make) {
    if (auto plan = find(key)) return plan;
    // Outside of the lock: planning takes time, and two equal plans do no harm.
    std::shared_ptr<const Plan> plan = make();
    const std::lock_guard lock(mutex_);
    if (entries_.size() == kCapacity) entries_.pop_back();
    entries_.insert(entries_.begin(), {key, plan});
    return plan;
  }

 private:
  // A model asks for few shapes at a time: a list is searched faster than a key is hashed.
  static constexpr std::size_t kCapacity = 64;
  using Entry = std::pair<Key, std::shared_ptr<const Plan>>;

  std::shared_ptr<const Plan> find(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.first == key; });
    if (found == entries_.end()) return nullptr;
    std::rotate(entries_.begin(), found, found + 1);  // the latest first
    return entries_.front().second;
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

// What the choice of a backend depends on beside the request.
inline std::string selection_key(std::string_view backend) {
  const char* disabled = std::getenv("SOTTO_DISABLE");
  return std::string(backend) + '\n' + backends::current() + '\n' +
         (disabled == nullptr ? "" : disabled);
}

}  // namespace sotto::bridge
