// Recipes: the named ones, their text form, and what is said of a wrong one.
#include "sotto/recipe.h"

#include <gtest/gtest.h>

#include "sotto/error.h"

namespace sotto {
namespace {

TEST(Recipe, NamedOnesAreWhatTheTableSays) {
  const Recipe exact = Recipe::exact();
  EXPECT_EQ(exact.qk, QkFormat::exact);
  EXPECT_EQ(exact.v, VFormat::exact);
  EXPECT_FALSE(exact.smooth_k);

  const Recipe fp8 = Recipe::fp8();
  EXPECT_EQ(fp8.qk, QkFormat::e4m3);
  EXPECT_EQ(fp8.v, VFormat::e4m3);
  EXPECT_EQ(fp8.q_scale, Granularity::kv_head);
  EXPECT_EQ(fp8.k_scale, Granularity::kv_head);
  EXPECT_EQ(fp8.v_scale, Granularity::kv_head);
  EXPECT_EQ(fp8.hadamard, Hadamard::none);
  EXPECT_FALSE(fp8.smooth_k);

  Recipe fp8_hadamard = Recipe::fp8_hadamard();
  EXPECT_EQ(fp8_hadamard.hadamard, Hadamard::qk);
  EXPECT_TRUE(fp8_hadamard.smooth_k);
  fp8_hadamard.hadamard = Hadamard::none;
  fp8_hadamard.smooth_k = false;
  EXPECT_EQ(fp8_hadamard, fp8);

  const Recipe int8qk = Recipe::int8qk();
  EXPECT_EQ(int8qk.qk, QkFormat::int8);
  EXPECT_EQ(int8qk.q_scale, Granularity::token);
  EXPECT_EQ(int8qk.k_scale, Granularity::block);
  EXPECT_EQ(int8qk.v, VFormat::e4m3);
  EXPECT_TRUE(int8qk.v_scale_power_of_two);
  EXPECT_EQ(int8qk.hadamard, Hadamard::qk);
  EXPECT_TRUE(int8qk.smooth_k);

  Recipe high = Recipe::high();
  EXPECT_EQ(high.v, VFormat::e4m3_hi_lo);
  high.v = VFormat::e4m3;
  EXPECT_EQ(high, int8qk);

  for (const Recipe& recipe : {exact, fp8, int8qk}) {
    EXPECT_FALSE(recipe.smooth_q || recipe.v_mean || recipe.fast);
    EXPECT_EQ(recipe.accumulation, Accumulation::safe);
  }
  EXPECT_EQ(Recipe::names(),
            (std::vector<std::string>{"exact", "fp8", "fp8-hadamard", "int8qk", "high"}));
}

TEST(Recipe, ParsesMembers) {
  Recipe expected = Recipe::int8qk();
  expected.v_mean = true;
  EXPECT_EQ(Recipe::parse("int8qk+v_mean"), expected);
  expected = Recipe::fp8();
  expected.hadamard = Hadamard::qkv;
  EXPECT_EQ(Recipe::parse("fp8+hadamard=qkv"), expected);
  expected = Recipe::int8qk();
  expected.fast = true;
  expected.accumulation = Accumulation::plain;
  EXPECT_EQ(Recipe::parse("int8qk+fast+accumulation=plain"), expected);
  expected = Recipe::high();
  expected.smooth_k = false;
  expected.smooth_q = true;
  EXPECT_EQ(Recipe::parse("high+smooth_k=off+smooth_q=on"), expected);
}

TEST(Recipe, EveryTextThatItMakesReadsBack) {
  for (const std::string& name : Recipe::names()) {
    EXPECT_EQ(to_string(Recipe::parse(name)), name);
    for (Hadamard hadamard : {Hadamard::none, Hadamard::qk, Hadamard::qkv, Hadamard::v_only}) {
      for (int flags = 0; flags < 32; ++flags) {
        Recipe recipe = Recipe::parse(name);
        recipe.hadamard = hadamard;
        recipe.smooth_k = flags & 1;
        recipe.smooth_q = flags & 2;
        recipe.v_mean = flags & 4;
        recipe.fast = flags & 8;
        recipe.accumulation = flags & 16 ? Accumulation::plain : Accumulation::safe;
        EXPECT_EQ(Recipe::parse(to_string(recipe)), recipe) << to_string(recipe);
      }
    }
  }
}

TEST(Recipe, WrongTextsAreToldWhatIsKnown) {
  const auto expect = [](std::string_view text, const std::string& words) {
    try {
      Recipe::parse(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "recipe");
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos)
          << error.what() << "\n  should say: " << words;
    }
  };
  expect("", "known: exact, fp8, fp8-hadamard, int8qk, high");
  expect("fp4", "unknown name 'fp4'");
  expect("FP8", "unknown name 'FP8'");
  expect(" fp8", "unknown name");
  expect("fp8+", "unknown member ''");
  expect("fp8++fast", "unknown member ''");
  expect("fp8+smooth", "unknown member 'smooth'; known: hadamard=none|qk|qkv|v_only");
  expect("fp8+hadamard=v", "hadamard must be none or qk or qkv or v_only, got 'v'");
  expect("fp8+hadamard", "hadamard must be");
  expect("fp8+accumulation=fast", "safe or plain, got 'fast'");
  expect("fp8+fast=yes", "off or on, got 'yes'");
  expect("fp8+fast=", "got ''");
}

}  // namespace
}  // namespace sotto
