#include "sotto/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <utility>

#include "core/check.h"

namespace sotto {

Recipe Recipe::exact() { return {}; }

Recipe Recipe::fp8() { return {.qk = QkFormat::e4m3, .v = VFormat::e4m3}; }

Recipe Recipe::fp8_hadamard() {
  Recipe recipe = fp8();
  recipe.hadamard = Hadamard::qk;
  recipe.smooth_k = true;
  return recipe;
}

Recipe Recipe::int8qk() {
  return {.qk = QkFormat::int8,
          .v = VFormat::e4m3,
          .q_scale = Granularity::token,
          .k_scale = Granularity::block,
          .v_scale = Granularity::block,
          .v_scale_power_of_two = true,
          .hadamard = Hadamard::qk,
          .smooth_k = true};
}

Recipe Recipe::high() {
  Recipe recipe = int8qk();
  recipe.v = VFormat::e4m3_hi_lo;
  return recipe;
}

namespace {

struct Named {
  std::string_view name;
  Recipe (*make)();
};
constexpr std::array kNamed{
    Named{"exact", &Recipe::exact},
    Named{"fp8", &Recipe::fp8},
    Named{"fp8-hadamard", &Recipe::fp8_hadamard},
    Named{"int8qk", &Recipe::int8qk},
    Named{"high", &Recipe::high},
};

constexpr std::array<std::string_view, 4> kHadamardNames{"none", "qk", "qkv", "v_only"};
constexpr std::array<std::string_view, 2> kAccumulationNames{"safe", "plain"};

struct Flag {
  std::string_view name;
  bool Recipe::*member;
};
constexpr std::array kFlags{Flag{"smooth_k", &Recipe::smooth_k},
                            Flag{"smooth_q", &Recipe::smooth_q}, Flag{"v_mean", &Recipe::v_mean},
                            Flag{"fast", &Recipe::fast}};

template <class Enum, std::size_t N>
Enum parse_enum(std::string_view member, std::string_view value,
                const std::array<std::string_view, N>& names) {
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == value) return static_cast<Enum>(i);
  }
  core::fail("recipe", "{} must be {}, got '{}'", member, fmt::join(names, " or "), value);
}

void set_member(Recipe& recipe, std::string_view text) {
  const auto equals = text.find('=');
  const std::string_view member = text.substr(0, equals);
  const bool has_value = equals != std::string_view::npos;
  const std::string_view value = has_value ? text.substr(equals + 1) : std::string_view{};
  if (member == "hadamard") {
    recipe.hadamard = parse_enum<Hadamard>(member, value, kHadamardNames);
  } else if (member == "accumulation") {
    recipe.accumulation = parse_enum<Accumulation>(member, value, kAccumulationNames);
  } else {
    for (const Flag& flag : kFlags) {
      if (flag.name != member) continue;
      constexpr std::array<std::string_view, 2> kSwitch{"off", "on"};
      recipe.*flag.member = !has_value || parse_enum<int>(member, value, kSwitch) == 1;
      return;
    }
    core::fail(
        "recipe",
        "unknown member '{}'; known: hadamard=none|qk|qkv|v_only, smooth_k, smooth_q, v_mean, "
        "fast, accumulation=safe|plain",
        text);
  }
}

}  // namespace

std::vector<std::string> Recipe::names() {
  std::vector<std::string> names;
  for (const Named& named : kNamed) names.emplace_back(named.name);
  return names;
}

Recipe Recipe::parse(std::string_view text) {
  const auto plus = text.find('+');
  const std::string_view name = text.substr(0, plus);
  for (const Named& named : kNamed) {
    if (named.name != name) continue;
    Recipe recipe = named.make();
    for (auto at = plus; at != std::string_view::npos;) {
      const auto next = text.find('+', at + 1);
      set_member(recipe,
                 text.substr(at + 1, next == std::string_view::npos ? next : next - at - 1));
      at = next;
    }
    return recipe;
  }
  core::fail("recipe", "unknown name '{}'; known: {}", name, fmt::join(names(), ", "));
}

std::string to_string(const Recipe& recipe) {
  // Of the named recipes with these formats and scales, the one that needs the fewest changes.
  std::string shortest;
  for (const Named& named : kNamed) {
    const Recipe base = named.make();
    if (base.qk != recipe.qk || base.v != recipe.v || base.q_scale != recipe.q_scale ||
        base.k_scale != recipe.k_scale || base.v_scale != recipe.v_scale) {
      continue;
    }
    std::string text(named.name);
    if (base.hadamard != recipe.hadamard) {
      text +=
          fmt::format("+hadamard={}", kHadamardNames[static_cast<std::size_t>(recipe.hadamard)]);
    }
    for (const Flag& flag : kFlags) {
      if (base.*flag.member == recipe.*flag.member) continue;
      text += fmt::format("+{}{}", flag.name, recipe.*flag.member ? "" : "=off");
    }
    if (base.accumulation != recipe.accumulation) {
      text += fmt::format("+accumulation={}",
                          kAccumulationNames[static_cast<std::size_t>(recipe.accumulation)]);
    }
    if (shortest.empty() || text.size() < shortest.size()) shortest = text;
  }
  return shortest.empty() ? "custom" : shortest;
}

}  // namespace sotto
