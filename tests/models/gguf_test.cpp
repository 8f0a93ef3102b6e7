// GGUF files: what a right one gives, and what every kind of wrong one says.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "models/file_error.h"
#include "models/model_file.h"
#include "sotto/numerics.h"
#include "tests/models/damage.h"
#include "tests/models/gguf_builder.h"
#include "tests/models/temporary_folder.h"

namespace sotto::models {
namespace {

constexpr std::uint64_t kHidden = 32, kIntermediate = 64, kVocab = 6;

// GGML's numbers and block sizes.
constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kQ6_K = 14, kBf16 = 30;

GgufTensor zeros(const std::string& name, std::vector<std::uint64_t> dimensions) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : dimensions) count *= size;
  return {.name = name, .dimensions = std::move(dimensions), .data = std::string(count * 4, '\0')};
}

// One layer, two heads of 16 on one kv head, and the words over {a, b} up to "abb".
GgufBuilder tiny() {
  GgufBuilder file;
  file.set("general.architecture", gguf_text("llama"));
  file.set("general.name", gguf_text("tiny"));
  file.set("llama.block_count", gguf_u32(1));
  file.set("llama.context_length", gguf_u32(128));
  file.set("llama.embedding_length", gguf_u32(kHidden));
  file.set("llama.feed_forward_length", gguf_u32(kIntermediate));
  file.set("llama.attention.head_count", gguf_u32(2));
  file.set("llama.attention.head_count_kv", gguf_u32(1));
  file.set("llama.attention.layer_norm_rms_epsilon", gguf_f32(1e-5f));
  file.set("llama.rope.freq_base", gguf_f32(5000));
  file.set("tokenizer.ggml.model", gguf_text("gpt2"));
  file.set("tokenizer.ggml.pre", gguf_text("gpt-2"));
  file.set("tokenizer.ggml.tokens", gguf_texts({"<s>", "a", "b", "ab", "abb", "\u0120"}));
  file.set("tokenizer.ggml.merges", gguf_texts({"a b", "ab b"}));
  file.tensors = {zeros("token_embd.weight", {kHidden, kVocab}),
                  zeros("blk.0.attn_norm.weight", {kHidden}),
                  zeros("blk.0.attn_q.weight", {kHidden, 32}),
                  zeros("blk.0.attn_k.weight", {kHidden, 16}),
                  zeros("blk.0.attn_v.weight", {kHidden, 16}),
                  zeros("blk.0.attn_output.weight", {32, kHidden}),
                  zeros("blk.0.ffn_norm.weight", {kHidden}),
                  zeros("blk.0.ffn_gate.weight", {kHidden, kIntermediate}),
                  zeros("blk.0.ffn_up.weight", {kHidden, kIntermediate}),
                  zeros("blk.0.ffn_down.weight", {kIntermediate, kHidden}),
                  zeros("output_norm.weight", {kHidden})};
  return file;
}

Model load(const GgufBuilder& file) {
  const TemporaryFolder folder;
  return load_model(folder.write("file_name.gguf", file.build()));
}

TEST(Gguf, ReadsAModel) {
  GgufBuilder file = tiny();
  file.tensor("output_norm.weight").data.replace(4, 4, bytes_of(2.5f));
  const Model model = load(file);
  EXPECT_EQ(model.name, "tiny");
  const LlamaConfig& config = model.weights.config;
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.heads_kv, 1);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rotary_dim, 16);
  EXPECT_EQ(config.vocab, 6);
  EXPECT_EQ(config.context_length, 128);
  EXPECT_EQ(config.rope_theta, 5000);
  EXPECT_EQ(config.rms_eps, 1e-5f);
  EXPECT_TRUE(config.rope_interleaved);
  EXPECT_TRUE(config.rope_factors.empty());
  EXPECT_TRUE(model.weights.output.empty());
  EXPECT_EQ(model.weights.final_norm[1], 2.5f);
  EXPECT_EQ(model.weights.layers.at(0).down.size(), kHidden * kIntermediate);
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(model.tokenizer->encode("abba"), (std::vector<std::int32_t>{4, 1}));
}

TEST(Gguf, ReadsWhatIsOptional) {
  GgufBuilder file = tiny();
  file.version = 2;
  file.tensors.push_back(zeros("output.weight", {kHidden, kVocab}));
  file.tensors.push_back({.name = "rope_freqs.weight", .dimensions = {4}, .data = {}});
  for (const float factor : {1.0f, 1.0f, 2.0f, 8.0f}) file.tensors.back().data += bytes_of(factor);
  file.set("llama.rope.dimension_count", gguf_u32(8));
  file.set("llama.rope.scaling.factor", gguf_f32(2));
  const Model model = load(file);
  EXPECT_EQ(model.weights.output.size(), kHidden * kVocab);
  EXPECT_EQ(model.weights.config.rotary_dim, 8);
  EXPECT_EQ(model.weights.config.rope_factors, (std::vector<float>{2, 2, 4, 16}));
}

TEST(Gguf, ShowsNoNameThatSteersTheTerminal) {
  for (const char* name : {"\x1b[2J", "\xff", ""}) {
    GgufBuilder file = tiny();
    file.set("general.name", gguf_text(name));
    EXPECT_EQ(load(file).name, "file_name");
  }
}

TEST(Gguf, LeavesTheTokenizerAlone) {
  GgufBuilder file = tiny();
  file.set("tokenizer.ggml.model", gguf_text("llama"));
  const TemporaryFolder folder;
  const auto path = folder.write("tiny.gguf", file.build());
  EXPECT_THROW(load_model(path), FileError);
  EXPECT_FALSE(load_model(path, LoadTokenizer::no).tokenizer);
}

// One row of 32 in each storage type, from GGML's definition of the blocks.
TEST(Gguf, Dequantizes) {
  const std::string half = bytes_of(f16(0.5f).bits);
  const std::string three = bytes_of(f16(3.0f).bits);
  std::string bytes32, nibbles, halves, bf16s, floats;
  for (int i = 0; i < 32; ++i) {
    bytes32 += static_cast<char>(i - 16);
    halves += bytes_of(f16(0.25f * static_cast<float>(i)).bits);
    bf16s += bytes_of(bf16(0.25f * static_cast<float>(i)).bits);
    floats += bytes_of(0.1f * static_cast<float>(i));
  }
  for (int i = 0; i < 16; ++i) nibbles += static_cast<char>(i | (15 - i) << 4);
  const auto nibble = [](int i) { return static_cast<float>(i < 16 ? i : 31 - i); };

  struct Case {
    std::uint32_t type;
    std::string data;
    std::function<float(int)> expected;
  };
  const std::vector<Case> cases{
      {kF32, floats, [](int i) { return 0.1f * static_cast<float>(i); }},
      {kF16, halves, [](int i) { return 0.25f * static_cast<float>(i); }},
      {kBf16, bf16s, [](int i) { return 0.25f * static_cast<float>(i); }},
      {kQ8_0, half + bytes32, [](int i) { return 0.5f * static_cast<float>(i - 16); }},
      {kQ4_0, half + nibbles, [&](int i) { return 0.5f * (nibble(i) - 8); }},
      {kQ4_1, half + three + nibbles, [&](int i) { return 0.5f * nibble(i) + 3; }},
  };
  for (const Case& c : cases) {
    GgufBuilder file = tiny();
    file.tensor("output_norm.weight").type = c.type;
    file.tensor("output_norm.weight").data = c.data;
    const Model model = load(file);
    ASSERT_EQ(model.weights.final_norm.size(), kHidden);
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(model.weights.final_norm[i], c.expected(i)) << "type " << c.type << " at " << i;
    }
  }
}

struct Wrong {
  std::string name;
  std::function<void(GgufBuilder&)> change;
  std::string expected;  // what the error says, after the file's name
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.name; }

class WrongGguf : public testing::TestWithParam<Wrong> {};

TEST_P(WrongGguf, IsNamed) {
  GgufBuilder file = tiny();
  GetParam().change(file);
  const TemporaryFolder folder;
  const auto path = folder.write("wrong.gguf", file.build());
  try {
    load_model(path);
    FAIL() << "no error";
  } catch (const FileError& error) {
    const std::string expected = path.string() + ": " + GetParam().expected;
    EXPECT_EQ(std::string(error.what()).substr(0, expected.size()), expected) << error.what();
  }
}

constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::string array_of(std::uint32_t element, std::uint64_t count, const std::string& data) {
  return bytes_of<std::uint32_t>(9) + bytes_of(element) + bytes_of(count) + data;
}

// An array of one array of one array ... `depth` deep.
std::string nested(int depth) {
  std::string inner = bytes_of<std::uint32_t>(4) + bytes_of<std::uint64_t>(0);
  for (int i = 1; i < depth; ++i) {
    inner = bytes_of<std::uint32_t>(9) + bytes_of<std::uint64_t>(1) + inner;
  }
  return bytes_of<std::uint32_t>(9) + inner;
}

std::function<void(GgufBuilder&)> set(const std::string& key, const std::string& value) {
  return [=](GgufBuilder& file) { file.set(key, value); };
}
std::function<void(GgufBuilder&)> erase(const std::string& key) {
  return [=](GgufBuilder& file) { file.erase(key); };
}
std::function<void(GgufBuilder&)> reshape(const std::string& tensor,
                                          const std::vector<std::uint64_t>& dimensions) {
  return [=](GgufBuilder& file) { file.tensor(tensor).dimensions = dimensions; };
}

const std::vector<Wrong> kWrong{
    {"magic", [](auto& file) { file.magic = "GGML"; }, "magic: is not"},
    {"version_1", [](auto& file) { file.version = 1; }, "version: 1 is not supported"},
    {"big_endian", [](auto& file) { file.version = 0x03000000; },
     "version: the file is big-endian"},
    {"tensor_count", [](auto& file) { file.tensor_count = kHuge; }, "tensor_count: is 1152921"},
    {"value_count", [](auto& file) { file.value_count = ~std::uint64_t{0}; },
     "metadata_kv_count: is 18446744073709551615, but the file has room for at most"},
    {"too_many_values", [](auto& file) { file.value_count = file.values.size() + 1; }, ""},
    {"too_many_tensors", [](auto& file) { file.tensor_count = file.tensors.size() + 1; }, ""},
    {"key_length", set("x", bytes_of<std::uint32_t>(8) + bytes_of(kHuge)), "x: needs 1152921"},
    {"array_length", set("x", array_of(4, kHuge, "")), "x: is 1152921504606846976, but the file"},
    {"string_array_length", set("x", array_of(8, kHuge, "")), "x: is 1152921504606846976, but"},
    {"array_array_length", set("x", array_of(9, kHuge, "")), "x: is 1152921504606846976, but"},
    {"nested_arrays", set("x", nested(1000)), "x: arrays are nested more than 4 deep"},
    {"value_type", set("x", bytes_of<std::uint32_t>(13)), "x: unknown value type 13"},
    {"element_type", set("x", array_of(99, 1, "")), "x: unknown value type 99"},
    {"empty_key", set("", gguf_u32(1)), "metadata_kv[14].key: is empty"},
    {"key_twice",
     [](auto& file) {
       file.values.push_back({"general.name", gguf_text("x")});
     },
     "general.name: the key is there twice"},
    {"control_characters_in_a_key",
     [](auto& file) {
       file.values.push_back({"\x1b[2J", gguf_u32(1)});
       file.values.push_back({"\x1b[2J", gguf_u32(1)});
     },
     "\\x1b[2J: the key is there twice"},
    {"alignment_0", set("general.alignment", gguf_u32(0)), "general.alignment: must be a power"},
    {"alignment_24", set("general.alignment", gguf_u32(24)), "general.alignment: must be a power"},
    {"alignment_2_31", set("general.alignment", gguf_u32(0x80000000)), "general.alignment: must"},
    {"alignment_type", set("general.alignment", gguf_text("32")),
     "general.alignment: must be an integer, got a value of type string"},
    {"alignment_moves_the_data", set("general.alignment", gguf_u32(1 << 30)), ""},

    {"architecture", set("general.architecture", gguf_text("qwen2")),
     "general.architecture: \"qwen2\" is not supported (supported: \"llama\")"},
    {"no_architecture", erase("general.architecture"), "general.architecture: the key is missing"},
    {"experts", set("llama.expert_count", gguf_u32(8)), "llama.expert_count: mixtures"},
    {"no_layers", set("llama.block_count", gguf_u32(0)), "llama.block_count: must be in [1, "},
    {"more_layers", set("llama.block_count", gguf_u32(2)), "blk.1.attn_norm.weight: the tensor is"},
    {"most_layers", set("llama.block_count", gguf_u32(1 << 24)), "blk.1.attn_norm.weight: the te"},
    {"negative_layers", set("llama.block_count", bytes_of<std::uint32_t>(5) + bytes_of(-1)),
     "llama.block_count: must be in [1, 16777216], got -1"},
    {"huge_hidden", set("llama.embedding_length", bytes_of<std::uint32_t>(10) + bytes_of(~0ull)),
     "llama.embedding_length: 18446744073709551615 is too large"},
    {"large_hidden", set("llama.embedding_length", gguf_u32(0xfffffff0)),
     "llama.embedding_length: must be in [1, "},
    {"hidden_type", set("llama.embedding_length", gguf_f32(32)),
     "llama.embedding_length: must be an integer, got a value of type f32"},
    {"no_hidden", erase("llama.embedding_length"), "llama.embedding_length: the key is missing"},
    {"zero_heads", set("llama.attention.head_count", gguf_u32(0)), "llama.attention.head_count: "},
    {"heads", set("llama.attention.head_count", gguf_u32(3)),
     "llama.attention.head_count: must divide llama.embedding_length = 32, got 3"},
    {"heads_kv", set("llama.attention.head_count_kv", gguf_u32(3)),
     "llama.attention.head_count_kv: must divide the 2 query heads, got 3"},
    {"zero_heads_kv", set("llama.attention.head_count_kv", gguf_u32(0)),
     "llama.attention.head_count_kv: must be in [1"},
    {"heads_kv_array", set("llama.attention.head_count_kv", array_of(4, 1, bytes_of(1))),
     "llama.attention.head_count_kv: must be an integer, got a value of type array"},
    {"head_dim", set("llama.attention.key_length", gguf_u32(1 << 20)),
     "llama.attention.key_length: must be in [1, 4096]"},
    {"head_dim_v", set("llama.attention.value_length", gguf_u32(8)),
     "llama.attention.value_length: must be the head size 16, got 8"},
    {"rope_nan", set("llama.rope.freq_base", gguf_f32(kNan)),
     "llama.rope.freq_base: must be a positive fp32 number, got nan"},
    {"rope_negative", set("llama.rope.freq_base", gguf_f32(-1)), "llama.rope.freq_base: must be"},
    {"rope_overflow", set("llama.rope.freq_base", bytes_of<std::uint32_t>(12) + bytes_of(1e300)),
     "llama.rope.freq_base: must be a positive fp32 number, got inf"},
    {"rotary_dim_odd", set("llama.rope.dimension_count", gguf_u32(7)),
     "llama.rope.dimension_count: must be even, got 7"},
    {"rotary_dim_large", set("llama.rope.dimension_count", gguf_u32(18)),
     "llama.rope.dimension_count: must be in [1, 16], got 18"},
    {"rope_scaling", set("llama.rope.scaling.type", gguf_text("yarn")),
     "llama.rope.scaling.type: \"yarn\" is not supported"},
    {"rope_factor", set("llama.rope.scaling.factor", gguf_f32(kNan)),
     "llama.rope.scaling.factor: scales a rotary frequency by nan"},
    {"rope_tensor_shape",
     [](auto& file) { file.tensors.push_back(zeros("rope_freqs.weight", {7})); },
     "rope_freqs.weight: shape must be [8], got [7]"},
    {"rope_tensor_zero",
     [](auto& file) { file.tensors.push_back(zeros("rope_freqs.weight", {8})); },
     "rope_freqs.weight: scales a rotary frequency by 0"},
    {"epsilon", set("llama.attention.layer_norm_rms_epsilon", gguf_f32(kNan)),
     "llama.attention.layer_norm_rms_epsilon: must be"},
    {"vocab", set("llama.vocab_size", gguf_u32(7)), "token_embd.weight: shape (outermost dimen"},

    {"type", [](auto& file) { file.tensor("blk.0.attn_q.weight").type = kQ6_K; },
     "blk.0.attn_q.weight: type Q6_K is not supported (supported: F32, F16, BF16, Q8_0, Q4_0, "},
    {"unknown_type", [](auto& file) { file.tensor("blk.0.attn_q.weight").type = 4000; },
     "blk.0.attn_q.weight: type number 4000 is not supported"},
    {"no_dimensions", reshape("blk.0.attn_q.weight", {}), "blk.0.attn_q.weight: must have 1 to 4"},
    {"five_dimensions", reshape("blk.0.attn_q.weight", {1, 1, 1, 1, 1}), "blk.0.attn_q.weight: mu"},
    {"zero_dimension", reshape("blk.0.attn_q.weight", {32, 0}),
     "blk.0.attn_q.weight: dimension 1 must be in [1, 2^63), got 0"},
    {"negative_dimension", reshape("blk.0.attn_q.weight", {32, ~std::uint64_t{0}}),
     "blk.0.attn_q.weight: dimension 1 must be in [1, 2^63), got 18446744073709551615"},
    {"overflow", reshape("blk.0.attn_q.weight", {kHuge, kHuge}),
     "blk.0.attn_q.weight: shape [1152921504606846976, 1152921504606846976] overflows"},
    {"overflow_in_bytes", reshape("blk.0.attn_q.weight", {kHuge, 4}),
     "blk.0.attn_q.weight: shape [4, 1152921504606846976] overflows"},
    {"no_whole_blocks",
     [](auto& file) {
       file.tensor("blk.0.attn_q.weight").type = kQ4_0;
       file.tensor("blk.0.attn_q.weight").dimensions = {33, 32};
     },
     "blk.0.attn_q.weight: shape [32, 33] overflows or is not a whole number of blocks"},
    {"past_the_end", reshape("output_norm.weight", {32, 1000}),
     "output_norm.weight: its 128000 bytes at offset"},
    {"offset", [](auto& file) { file.tensor("output_norm.weight").offset = kHuge; },
     "output_norm.weight: its 128 bytes at offset 1152921504606846976 go past the end"},
    {"offset_overflow",
     [](auto& file) { file.tensor("output_norm.weight").offset = ~std::uint64_t{31}; },
     "output_norm.weight: its 128 bytes at offset 18446744073709551584 go past the end"},
    {"misaligned", [](auto& file) { file.tensor("output_norm.weight").offset = 8; },
     "output_norm.weight: offset 8 is not a multiple of the alignment 32"},
    {"overlap", [](auto& file) { file.tensor("output_norm.weight").offset = 32; },
     "output_norm.weight: overlaps tensor \"token_embd.weight\""},
    {"same_place", [](auto& file) { file.tensor("output_norm.weight").offset = 0; }, ""},
    {"tensor_twice", [](auto& file) { file.tensors.push_back(file.tensors.back()); },
     "output_norm.weight: the tensor is there twice"},
    {"tensor_without_a_name", [](auto& file) { file.tensors.back().name = ""; },
     "tensor_infos[10].name: is empty"},
    {"missing_tensor", [](auto& file) { file.tensors.pop_back(); },
     "output_norm.weight: the tensor is missing"},
    {"bias", [](auto& file) { file.tensors.push_back(zeros("blk.0.attn_q.bias", {32})); },
     "blk.0.attn_q.bias: the Llama architecture as supported here has no such tensor"},
    {"shape", reshape("blk.0.ffn_up.weight", {kIntermediate, kHidden}),
     "blk.0.ffn_up.weight: shape (outermost dimension first) must be [64, 32], got [32, 64]"},
    {"one_dimension", reshape("blk.0.attn_q.weight", {1024}),
     "blk.0.attn_q.weight: shape (outermost dimension first) must be [32, 32], got [1024]"},
    {"nan_weight",
     [](auto& file) { file.tensor("output_norm.weight").data.replace(8, 4, bytes_of(kNan)); },
     "output_norm.weight: has a value that is NaN or infinite"},

    {"tokenizer_model", set("tokenizer.ggml.model", gguf_text("llama")),
     "tokenizer.ggml.model: \"llama\" is not supported (supported: \"gpt2\", byte-level BPE); give "
     "a file of token ids instead of a text"},
    {"pre_tokenizer", set("tokenizer.ggml.pre", gguf_text("x")),
     "tokenizer.ggml.pre: unknown pre-tokenizer \"x\" (known: default, gpt-2"},
    {"no_tokens", erase("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens: the key is missing"},
    {"no_merges", erase("tokenizer.ggml.merges"), "tokenizer.ggml.merges: the key is missing"},
    {"tokens_type", set("tokenizer.ggml.tokens", array_of(4, 0, "")),
     "tokenizer.ggml.tokens: must be an array of strings"},
    {"too_many_tokens",
     set("tokenizer.ggml.tokens", gguf_texts({"a", "b", "ab", "abb", "c", "d", "e"})),
     "tokenizer.ggml.tokens: has 7 tokens, but the embedding has only 6 rows"},
    {"token_twice", set("tokenizer.ggml.tokens", gguf_texts({"a", "b", "ab", "abb", "a"})),
     "tokenizer.ggml.tokens[4]: \"a\" is already token 0"},
    {"token_no_utf_8", set("tokenizer.ggml.tokens", gguf_texts({"a", "b", "\xff"})),
     "tokenizer.ggml.tokens[2]: \"\\xff\" is not valid UTF-8"},
    {"no_bytes", set("tokenizer.ggml.tokens", gguf_texts({"aa", "bb"})),
     "tokenizer.ggml.tokens: no single byte is a token"},
    {"merge_part", set("tokenizer.ggml.merges", gguf_texts({"a b", "a c"})),
     "tokenizer.ggml.merges[1]: \"c\" is no token of the vocabulary"},
    {"merge_product", set("tokenizer.ggml.merges", gguf_texts({"b a"})),
     "tokenizer.ggml.merges[0]: \"ba\" is no token of the vocabulary"},
    {"merge_cycle", set("tokenizer.ggml.merges", gguf_texts({"a ", "a b"})),
     "tokenizer.ggml.merges[0]: a merge needs two parts that are not empty"},
    {"merge_of_nothing", set("tokenizer.ggml.merges", gguf_texts({""})),
     "tokenizer.ggml.merges[0]: a merge needs two parts"},
    {"merge_of_three", set("tokenizer.ggml.merges", gguf_texts({"a b b"})),
     "tokenizer.ggml.merges[0]: \"b b\" is no token"},
    {"merge_twice", set("tokenizer.ggml.merges", gguf_texts({"a b", "ab b", "a b"})),
     "tokenizer.ggml.merges[2]: \"a\" \"b\" repeats merge 0"},
    {"huge_merge", set("tokenizer.ggml.merges", gguf_texts({std::string(1 << 20, 'a') + " b"})),
     "tokenizer.ggml.merges[0]: \"aaaaaaaa"},
};

INSTANTIATE_TEST_SUITE_P(Files, WrongGguf, testing::ValuesIn(kWrong),
                         [](const auto& wrong) { return wrong.param.name; });

TEST(Gguf, EveryPrefixIsAnError) {
  const TemporaryFolder folder;
  const std::string content = tiny().build();
  const auto path = folder.write("short.gguf", content);
  for (std::size_t size = content.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    EXPECT_THROW(load_model(path), FileError) << size << " of " << content.size() << " bytes";
  }
}

TEST(Gguf, SurvivesDamage) {
  const TemporaryFolder folder;
  const std::string content = tiny().build();
  const std::size_t header = content.find("output_norm.weight") + 64;
  damage_everywhere(folder, "damaged.gguf", content, header,
                    [&] { load_model(folder.path() / "damaged.gguf"); });
}

TEST(Gguf, NoFile) {
  const TemporaryFolder folder;
  EXPECT_THROW(load_model(folder.path() / "absent.gguf"), FileError);
  EXPECT_THROW(load_model(folder.path() / "absent"), FileError);
  EXPECT_THROW(load_model(folder.write("empty.gguf", "")), FileError);
  EXPECT_THROW(load_model(folder.write("model.bin", "GGUF")), FileError);
  std::filesystem::create_directory(folder.path() / "folder.gguf");
  EXPECT_THROW(load_model(folder.path() / "folder.gguf"), FileError);
}

// A file of 2^40 bytes, nearly all of them a hole: its size must not be taken for its content.
TEST(Gguf, SparseFile) {
  const TemporaryFolder folder;
  GgufBuilder file = tiny();
  file.tensors.pop_back();
  const auto path = folder.write("sparse.gguf", file.build());
  std::error_code error;
  std::filesystem::resize_file(path, std::uintmax_t{1} << 40, error);
  if (error) GTEST_SKIP() << "the file system has no files that large";
  EXPECT_THROW(load_model(path), FileError);
}

}  // namespace
}  // namespace sotto::models
