// Models from Hugging Face: what right files give, and what every kind of wrong one says.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "models/file_error.h"
#include "models/model_file.h"
#include "sotto/numerics.h"
#include "tests/models/damage.h"
#include "tests/models/gguf_builder.h"
#include "tests/models/temporary_folder.h"

namespace sotto::models {
namespace {

using nlohmann::json;

std::string safetensors(const std::string& header, const std::string& data) {
  return bytes_of<std::uint64_t>(header.size()) + header + data;
}

struct HfTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

HfTensor zeros(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return {"F32", shape, std::string(static_cast<std::size_t>(count) * 4, '\0')};
}

// The files of a model with one layer, two heads of 4 on one kv head, and the words over {a, b}.
struct Tiny {
  json config = {
      {"model_type", "llama"},   {"num_hidden_layers", 1},        {"hidden_size", 8},
      {"intermediate_size", 12}, {"num_attention_heads", 2},      {"num_key_value_heads", 1},
      {"vocab_size", 6},         {"max_position_embeddings", 64}, {"rms_norm_eps", 1e-5},
      {"rope_theta", 500.0},     {"tie_word_embeddings", true}};
  json tokenizer = json::parse(R"({
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false}]},
    "added_tokens": [{"id": 5, "content": "<end>"}],
    "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3},
              "merges": ["a b", ["ab", "b"]]}})");
  std::map<std::string, HfTensor> tensors = {
      {"model.embed_tokens.weight", zeros({6, 8})},
      {"model.norm.weight", zeros({8})},
      {"model.layers.0.input_layernorm.weight", zeros({8})},
      {"model.layers.0.self_attn.q_proj.weight", zeros({8, 8})},
      {"model.layers.0.self_attn.k_proj.weight", zeros({4, 8})},
      {"model.layers.0.self_attn.v_proj.weight", zeros({4, 8})},
      {"model.layers.0.self_attn.o_proj.weight", zeros({8, 8})},
      {"model.layers.0.post_attention_layernorm.weight", zeros({8})},
      {"model.layers.0.mlp.gate_proj.weight", zeros({12, 8})},
      {"model.layers.0.mlp.up_proj.weight", zeros({12, 8})},
      {"model.layers.0.mlp.down_proj.weight", zeros({8, 12})},
  };

  json header() const {
    json result = {{"__metadata__", {{"format", "pt"}}}};
    std::size_t at = 0;
    for (const auto& [name, tensor] : tensors) {
      result[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {at, at + tensor.data.size()}}};
      at += tensor.data.size();
    }
    return result;
  }
  std::string data() const {
    std::string result;
    for (const auto& [name, tensor] : tensors) result += tensor.data;
    return result;
  }
  std::string checkpoint() const { return safetensors(header().dump(), data()); }

  void write(const TemporaryFolder& folder) const {
    folder.write("config.json", config.dump());
    folder.write("tokenizer.json", tokenizer.dump());
    folder.write("model.safetensors", checkpoint());
  }
};

TEST(HuggingFace, ReadsAFolder) {
  Tiny tiny;
  std::string& norm = tiny.tensors["model.norm.weight"].data;
  norm.replace(4, 4, bytes_of(2.5f));
  const TemporaryFolder folder;
  tiny.write(folder);
  const Model model = load_model(folder.path());
  const LlamaConfig& config = model.weights.config;
  EXPECT_EQ(model.name, folder.path().filename().string());
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.hidden, 8);
  EXPECT_EQ(config.intermediate, 12);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.heads_kv, 1);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.rotary_dim, 4);
  EXPECT_EQ(config.context_length, 64);
  EXPECT_EQ(config.rope_theta, 500);
  EXPECT_FALSE(config.rope_interleaved);
  EXPECT_TRUE(config.rope_factors.empty());
  EXPECT_TRUE(model.weights.output.empty());
  EXPECT_EQ(model.weights.final_norm[1], 2.5f);
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(model.tokenizer->encode("abba"), (std::vector<std::int32_t>{3, 0}));
  EXPECT_EQ(model.tokenizer->decode(std::vector{3, 5}), "abb<end>");
  EXPECT_EQ(model.tokenizer->vocab_size(), 6);
}

TEST(HuggingFace, ReadsAFile) {
  Tiny tiny;
  tiny.tensors["model.norm.weight"] = {"BF16", {8}, std::string(16, '\0')};
  tiny.tensors["model.norm.weight"].data.replace(2, 2, bytes_of(bf16(1.5f).bits));
  std::string& half = tiny.tensors["model.layers.0.mlp.up_proj.weight"].data;
  tiny.tensors["model.layers.0.mlp.up_proj.weight"].dtype = "F16";
  half = bytes_of(f16(-0.25f).bits) + std::string(half.size() / 2 - 2, '\0');
  const TemporaryFolder folder;
  tiny.write(folder);
  std::filesystem::remove(folder.path() / "tokenizer.json");
  const Model model = load_model(folder.path() / "model.safetensors");
  EXPECT_FALSE(model.tokenizer);
  EXPECT_EQ(model.weights.final_norm[1], 1.5f);
  EXPECT_EQ(model.weights.layers[0].up[0], -0.25f);
}

TEST(HuggingFace, ReadsShards) {
  Tiny tiny;
  tiny.config["tie_word_embeddings"] = false;
  const TemporaryFolder folder;
  tiny.write(folder);
  Tiny second;
  second.tensors = {{"lm_head.weight", zeros({6, 8})}};
  json map;
  for (const auto& [name, tensor] : tiny.tensors) map[name] = "1.safetensors";
  map["lm_head.weight"] = "2.safetensors";
  std::filesystem::rename(folder.path() / "model.safetensors", folder.path() / "1.safetensors");
  folder.write("2.safetensors", second.checkpoint());
  const auto write_index = [&] {
    folder.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  };
  write_index();
  EXPECT_EQ(load_model(folder.path()).weights.output.size(), 48u);

  for (const char* elsewhere : {"../1.safetensors", "/etc/passwd", "..", "", "a\\b"}) {
    map["lm_head.weight"] = elsewhere;
    write_index();
    EXPECT_THROW(load_model(folder.path()), FileError) << elsewhere;
  }
  for (const char* wrong : {"1.safetensors", "3.safetensors"}) {
    map["lm_head.weight"] = wrong;
    write_index();
    EXPECT_THROW(load_model(folder.path()), FileError) << wrong;
  }
}

// The frequencies that transformers 5 computes for these parameters at theta 500000, dim 8.
TEST(HuggingFace, ScalesRotaryFrequencies) {
  Tiny tiny;
  tiny.config["head_dim"] = 8;
  for (const char* part : {"q", "k", "v", "o"}) {
    const bool is_kv = *part == 'k' || *part == 'v';
    tiny.tensors[std::string("model.layers.0.self_attn.") + part + "_proj.weight"] =
        *part == 'o' ? zeros({8, 16}) : zeros({is_kv ? 8 : 16, 8});
  }
  const auto factors = [&] {
    const TemporaryFolder folder;
    tiny.write(folder);
    return load_model(folder.path()).weights.config.rope_factors;
  };
  const json llama3 = {{"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 512}};
  tiny.config["rope_theta"] = 500000.0;
  tiny.config["rope_scaling"] = llama3;
  tiny.config["rope_scaling"]["rope_type"] = "llama3";
  const auto old_style = factors();
  ASSERT_EQ(old_style.size(), 4u);
  EXPECT_FLOAT_EQ(old_style[0], 1);
  EXPECT_FLOAT_EQ(old_style[1], 1.3752868f);
  EXPECT_FLOAT_EQ(old_style[2], 8);
  EXPECT_FLOAT_EQ(old_style[3], 8);

  tiny.config.erase("rope_theta");
  tiny.config.erase("rope_scaling");
  tiny.config["rope_parameters"] = llama3;
  tiny.config["rope_parameters"]["rope_type"] = "llama3";
  tiny.config["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_EQ(factors(), old_style);

  tiny.config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(factors(), std::vector<float>(4, 4.0f));
  tiny.config["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_TRUE(factors().empty());
}

struct Wrong {
  std::string name;
  std::function<void(Tiny&)> change;
  std::string expected;  // what the error says, after the folder's name
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.name; }

class WrongHuggingFace : public testing::TestWithParam<Wrong> {};

TEST_P(WrongHuggingFace, IsNamed) {
  Tiny tiny;
  GetParam().change(tiny);
  const TemporaryFolder folder;
  tiny.write(folder);
  try {
    load_model(folder.path());
    FAIL() << "no error";
  } catch (const FileError& error) {
    const std::string expected = folder.path().string() + GetParam().expected;
    EXPECT_EQ(std::string(error.what()).substr(0, expected.size()), expected) << error.what();
  }
}

std::function<void(Tiny&)> config(const std::string& key, const json& value) {
  return [=](Tiny& tiny) { tiny.config[key] = value; };
}
std::function<void(Tiny&)> no_config(const std::string& key) {
  return [=](Tiny& tiny) { tiny.config.erase(key); };
}
// A change of tokenizer.json, at a JSON pointer.
std::function<void(Tiny&)> tokenizer(const std::string& pointer, const json& value) {
  return [=](Tiny& tiny) { tiny.tokenizer[json::json_pointer(pointer)] = value; };
}
std::function<void(Tiny&)> pre_tokenizer(const std::string& value) {
  return tokenizer("/pre_tokenizer", json::parse(value));
}

constexpr double kHuge = 1e300;

const std::vector<Wrong> kWrong{
    {"model_type", config("model_type", "gpt2"), "/config.json: model_type: \"gpt2\" is not supp"},
    {"no_model_type", no_config("model_type"), "/config.json: model_type: is missing"},
    {"no_object", [](auto& t) { t.config = json::array(); },
     "/config.json: document: must be an object"},
    {"no_layers", no_config("num_hidden_layers"), "/config.json: num_hidden_layers: is missing"},
    {"zero_layers", config("num_hidden_layers", 0), "/config.json: num_hidden_layers: must be in"},
    {"more_layers", config("num_hidden_layers", 9999999), ": model.layers.1.input_layernorm.weig"},
    {"hidden_real", config("hidden_size", 8.0), "/config.json: hidden_size: must be an integer"},
    {"hidden_text", config("hidden_size", "8"), "/config.json: hidden_size: must be an integer"},
    {"hidden_negative", config("hidden_size", -8), "/config.json: hidden_size: must be in [1, "},
    {"hidden_huge", config("hidden_size", ~std::uint64_t{0}), "/config.json: hidden_size: must be"},
    {"heads", config("num_attention_heads", 3),
     "/config.json: num_attention_heads: must divide hidden_size = 8, got 3"},
    {"no_heads", config("num_attention_heads", 0), "/config.json: num_attention_heads: must"},
    {"heads_kv", config("num_key_value_heads", 3),
     "/config.json: num_key_value_heads: must divide the 2 query heads, got 3"},
    {"head_dim", config("head_dim", 1 << 30), "/config.json: head_dim: must be in [1, 4096]"},
    {"head_dim_odd", config("head_dim", 3), "/config.json: head_dim: must be even, got 3"},
    {"attention_bias", config("attention_bias", true),
     "/config.json: attention_bias: true is not supp"},
    {"mlp_bias", config("mlp_bias", true), "/config.json: mlp_bias: true is not supported"},
    {"bias_type", config("mlp_bias", 1), "/config.json: mlp_bias: must be true or false"},
    {"hidden_act", config("hidden_act", "gelu"), "/config.json: hidden_act: \"gelu\" is not"},
    {"quantized", config("quantization_config", {{"quant_method", "gptq"}}),
     "/config.json: quantization_config: quantised checkpoints are not supported"},
    {"rope_theta", config("rope_theta", -1), "/config.json: rope_theta: must be a positive"},
    {"rope_theta_huge", config("rope_theta", kHuge),
     "/config.json: rope_theta: must be a positive"},
    {"rms_eps", config("rms_norm_eps", -1), "/config.json: rms_norm_eps: must be"},
    {"rope_type", config("rope_scaling", {{"type", "yarn"}}),
     "/config.json: rope_scaling.type: \"yarn\" is not supported"},
    {"rope_partial", config("rope_parameters", {{"partial_rotary_factor", 0.5}}),
     "/config.json: rope_parameters.partial_rotary_factor: only 1"},
    {"rope_no_factor", config("rope_scaling", {{"type", "linear"}}),
     "/config.json: rope_scaling.factor: is missing"},
    {"rope_zero_factor", config("rope_scaling", {{"type", "linear"}, {"factor", 0}}),
     "/config.json: rope_scaling: scales a rotary frequency by 0"},
    {"rope_llama3",
     config("rope_scaling", {{"rope_type", "llama3"},
                             {"factor", 8},
                             {"low_freq_factor", 1},
                             {"high_freq_factor", 1},
                             {"original_max_position_embeddings", 64}}),
     "/config.json: rope_scaling.high_freq_factor: must be above low_freq_factor"},

    {"missing_tensor", [](auto& t) { t.tensors.erase("model.norm.weight"); },
     ": model.norm.weight: the tensor is missing"},
    {"no_output", config("tie_word_embeddings", false), ": lm_head.weight: the tensor is missing"},
    {"shape",
     [](auto& t) {
       t.tensors["model.norm.weight"].shape = {2, 4};
     },
     "/model.safetensors: model.norm.weight: shape (outermost dimension first) must be [8], got "},
    {"bias", [](auto& t) { t.tensors["model.layers.0.self_attn.q_proj.bias"] = zeros({8}); },
     "/model.safetensors: model.layers.0.self_attn.q_proj.bias: the Llama architecture"},
    {"nan", [](auto& t) { t.tensors["model.norm.weight"].data.replace(0, 4, "\xff\xff\xff\xff"); },
     "/model.safetensors: model.norm.weight: has a value that is NaN or infinite"},
    {"dtype", [](auto& t) { t.tensors["model.norm.weight"].dtype = "I64"; },
     "/model.safetensors: model.norm.weight.dtype: \"I64\" is not supported (supported: F32, F16"},
    {"size", [](auto& t) { t.tensors["model.norm.weight"].shape = {9}; },
     "/model.safetensors: model.norm.weight.data_offsets: ["},
    {"negative", [](auto& t) { t.tensors["model.norm.weight"].shape = {-8}; },
     "/model.safetensors: model.norm.weight.shape: has a negative dimension or overflows"},
    {"overflow",
     [](auto& t) {
       t.tensors["model.norm.weight"].shape = {1ll << 40, 1ll << 40};
     },
     "/model.safetensors: model.norm.weight.shape: has a negative dimension or overflows"},

    {"normalizer", tokenizer("/normalizer", {{"type", "NFC"}}),
     "/tokenizer.json: normalizer.type: \"NFC\" is not supported; give a file of token ids"},
    {"model", tokenizer("/model/type", "Unigram"), "/tokenizer.json: model.type: \"Unigram\" is"},
    {"dropout", tokenizer("/model/dropout", 0.5), "/tokenizer.json: model.dropout: a random"},
    {"affix", tokenizer("/model/end_of_word_suffix", "</w>"),
     "/tokenizer.json: model.end_of_word_suffix: \"</w>\" is not supported"},
    {"byte_fallback", tokenizer("/model/byte_fallback", true),
     "/tokenizer.json: model.byte_fallback: true is not supported"},
    {"unknown_token", tokenizer("/model/unk_token", "<unk>"),
     "/tokenizer.json: model.unk_token: \"<unk>\" is no token"},
    {"id", tokenizer("/model/vocab/b", 1 << 30),
     "/tokenizer.json: model.vocab.b: must be in [0, 6) (the rows of the embedding), got 10737"},
    {"negative_id", tokenizer("/model/vocab/b", -1), "/tokenizer.json: model.vocab.b: must be in"},
    {"id_type", tokenizer("/model/vocab/b", "1"), "/tokenizer.json: model.vocab.b: must be an int"},
    {"id_twice", tokenizer("/model/vocab/b", 0), "/tokenizer.json: model.vocab.b: 0 is the id of"},
    {"id_of_a_vocabulary_that_is_not_there",
     [](auto& t) {
       t.config["vocab_size"] = 2147483647;
       t.tokenizer["model"]["vocab"]["b"] = 2147483646;
     },
     "/model.safetensors: model.embed_tokens.weight: shape (outermost dimension first) must be "},
    {"added_id", tokenizer("/added_tokens/0/id", 6),
     "/tokenizer.json: added_tokens[0].id: must be"},
    {"merge", tokenizer("/model/merges/0", "ab"), "/tokenizer.json: model.merges[0]: must be two"},
    {"merge_type", tokenizer("/model/merges/0", 1), "/tokenizer.json: model.merges[0]: must be a"},
    {"merge_triple", tokenizer("/model/merges/0", {"a", "b", "b"}),
     "/tokenizer.json: model.merges[0]: must be two"},
    {"merge_part", tokenizer("/model/merges/0", "a c"),
     "/tokenizer.json: model.merges[0]: \"c\" is no token of the vocabulary"},
    {"merge_empty", tokenizer("/model/merges/0", {"", "a"}),
     "/tokenizer.json: model.merges[0]: a merge needs two parts"},
    {"no_pre_tokenizer", tokenizer("/pre_tokenizer", nullptr),
     "/tokenizer.json: pre_tokenizer: a tokenizer without ByteLevel at its end is not supported"},
    {"pre_tokenizer", pre_tokenizer(R"({"type": "Metaspace"})"),
     "/tokenizer.json: pre_tokenizer.type: \"Metaspace\" is not supported"},
    {"byte_level_first",
     pre_tokenizer(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
                                                             {"type": "Digits"}]})"),
     "/tokenizer.json: pre_tokenizer.pretokenizers[1]: a stage after ByteLevel is not supported"},
    {"behavior",
     pre_tokenizer(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Contiguous"})"),
     "/tokenizer.json: pre_tokenizer.behavior: \"Contiguous\" is not supported"},
    {"regex",
     pre_tokenizer(R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})"),
     "/tokenizer.json: pre_tokenizer.pattern.Regex: pattern \"(a\": missing closing parenthesis"},
    {"regex_of_sets",
     pre_tokenizer(R"({"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})"),
     "/tokenizer.json: pre_tokenizer.pattern.Regex: pattern \"[a&&b]\": intersections"},
    {"regex_of_bytes",
     pre_tokenizer(R"({"type": "Split", "pattern": {"Regex": "\\C"}, "behavior": "Isolated"})"),
     "/tokenizer.json: pre_tokenizer.pattern.Regex: pattern"},
    {"too_many_stages",
     [](auto& t) {
       json list = json::array();
       for (int i = 0; i < 100; ++i) list.push_back({{"type", "Digits"}});
       t.tokenizer["pre_tokenizer"]["pretokenizers"] = list;
     },
     "/tokenizer.json: pre_tokenizer.pretokenizers[32].type: more than 32 stages"},
};

INSTANTIATE_TEST_SUITE_P(Files, WrongHuggingFace, testing::ValuesIn(kWrong),
                         [](const auto& wrong) { return wrong.param.name; });

// What is wrong with the container itself: header, data, and what the error says.
struct WrongContainer {
  std::string name, content, expected;
};

void PrintTo(const WrongContainer& wrong, std::ostream* out) { *out << wrong.name; }

class WrongSafetensors : public testing::TestWithParam<WrongContainer> {};

TEST_P(WrongSafetensors, IsNamed) {
  const TemporaryFolder folder;
  Tiny().write(folder);
  const auto path = folder.write("model.safetensors", GetParam().content);
  try {
    load_model(folder.path());
    FAIL() << "no error";
  } catch (const FileError& error) {
    const std::string expected = path.string() + ": " + GetParam().expected;
    EXPECT_EQ(std::string(error.what()).substr(0, expected.size()), expected) << error.what();
  }
}

std::string one(const std::string& name, int begin, int end) {
  return '"' + name + R"(": {"dtype": "F32", "shape": [)" + std::to_string((end - begin) / 4) +
         R"(], "data_offsets": [)" + std::to_string(begin) + ", " + std::to_string(end) + "]}";
}

std::string two(const std::string& first, const std::string& second) {
  return safetensors('{' + first + ',' + second + '}', std::string(16, '\0'));
}

std::string deep(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') +
         std::string(static_cast<std::size_t>(depth), ']');
}

INSTANTIATE_TEST_SUITE_P(
    Files, WrongSafetensors,
    testing::Values(
        WrongContainer{"no_header_size", "1234", "header size: the file ends before it"},
        WrongContainer{"header_past_the_end", bytes_of<std::uint64_t>(100) + "{}",
                       "header size: is"},
        WrongContainer{"huge_header", bytes_of(~std::uint64_t{0}) + "{}",
                       "header size: is 1844674"},
        WrongContainer{"empty_header", bytes_of<std::uint64_t>(0), "header: is not valid JSON"},
        WrongContainer{"no_json", safetensors("{\"a\": nan}", ""), "header: is not valid JSON"},
        WrongContainer{"overflow", safetensors("{\"a\": 1e999}", ""), "header: is not valid JSON"},
        WrongContainer{"no_utf_8", safetensors("{\"\xff\": 1}", ""), "header: is not valid JSON"},
        WrongContainer{"array", safetensors("[]", ""), "header: must be a JSON object"},
        WrongContainer{"deep", safetensors(deep(1000000), ""),
                       "header: JSON is nested more than 64"},
        WrongContainer{"no_entry", safetensors("{\"a\": 1}", ""), "a: must be an object"},
        WrongContainer{"no_dtype", safetensors("{\"a\": {}}", ""), "a.dtype: is missing"},
        WrongContainer{"twice", two(one("a", 0, 8), one("a", 8, 16)), "header: the key \"a\" is"},
        WrongContainer{"overlap", two(one("a", 0, 8), one("b", 4, 16)),
                       "b.data_offsets: begins at 4 and overlaps"},
        WrongContainer{"hole", two(one("a", 0, 4), one("b", 8, 16)),
                       "b.data_offsets: begins at 8 and leaves a hole from 4"},
        WrongContainer{"uncovered", two(one("a", 0, 4), one("b", 4, 8)),
                       "header: the tensors cover 8 of the 16 bytes of data"},
        WrongContainer{"past_the_end", two(one("a", 0, 4), one("b", 4, 20)),
                       "b.data_offsets: must have 0 <= begin <= end <= 16"},
        WrongContainer{"backwards", two(one("a", 0, 4), one("b", 8, 4)), "b."},
        WrongContainer{
            "begin_only",
            safetensors(R"({"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}})", "1234"),
            "a.data_offsets: must be [begin, end]"},
        WrongContainer{
            "real_shape",
            safetensors(R"({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": []}})", ""),
            "a.shape[0]: must be an integer"}),
    [](const auto& wrong) { return wrong.param.name; });

TEST(HuggingFace, SurvivesDamage) {
  const Tiny tiny;
  const auto damage = [&](const std::string& name, const std::string& content, std::size_t bytes) {
    const TemporaryFolder folder;
    tiny.write(folder);
    damage_everywhere(folder, name, content, bytes, [&] { load_model(folder.path()); });
  };
  const std::string config = tiny.config.dump();
  const std::string tokenizer = tiny.tokenizer.dump();
  damage("config.json", config, config.size());
  damage("tokenizer.json", tokenizer, tokenizer.size());
  damage("model.safetensors", tiny.checkpoint(), 8 + tiny.header().dump().size());
}

TEST(HuggingFace, NoFiles) {
  const TemporaryFolder folder;
  EXPECT_THROW(load_model(folder.path()), FileError);
  folder.write("config.json", Tiny().config.dump());
  EXPECT_THROW(load_model(folder.path()), FileError);
  folder.write("a.safetensors", Tiny().checkpoint());
  EXPECT_NO_THROW(load_model(folder.path()));
  folder.write("b.safetensors", Tiny().checkpoint());
  EXPECT_THROW(load_model(folder.path()), FileError);
}

}  // namespace
}  // namespace sotto::models
