#include "seeds.h"

#include <fmt/format.h>

#include "tests/models/gguf_builder.h"

namespace sotto::fuzz {
namespace {

using namespace models;

GgufTensor zeros(const std::string& name, std::vector<std::uint64_t> dimensions) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : dimensions) count *= size;
  return {.name = name, .dimensions = std::move(dimensions), .data = std::string(count * 4, '\0')};
}

// A whole model, as small as one can be.
std::string gguf(const std::string& pre_tokenizer) {
  constexpr std::uint64_t kHidden = 2, kVocab = 6;
  GgufBuilder file;
  file.set("general.architecture", gguf_text("llama"));
  file.set("llama.block_count", gguf_u32(1));
  file.set("llama.context_length", gguf_u32(128));
  file.set("llama.embedding_length", gguf_u32(kHidden));
  file.set("llama.feed_forward_length", gguf_u32(kHidden));
  file.set("llama.attention.head_count", gguf_u32(1));
  file.set("llama.attention.layer_norm_rms_epsilon", gguf_f32(1e-5f));
  file.set("tokenizer.ggml.model", gguf_text("gpt2"));
  file.set("tokenizer.ggml.pre", gguf_text(pre_tokenizer));
  file.set("tokenizer.ggml.tokens", gguf_texts({"<s>", "a", "b", "ab", "abb", "\u0120"}));
  file.set("tokenizer.ggml.merges", gguf_texts({"a b", "ab b"}));
  file.tensors = {zeros("token_embd.weight", {kHidden, kVocab}),
                  zeros("output_norm.weight", {kHidden})};
  for (const char* name : {"attn_norm", "ffn_norm"}) {
    file.tensors.push_back(zeros(fmt::format("blk.0.{}.weight", name), {kHidden}));
  }
  for (const char* name :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    file.tensors.push_back(zeros(fmt::format("blk.0.{}.weight", name), {kHidden, kHidden}));
  }
  return file.build();
}

std::string safetensors(const std::string& header, std::size_t data_bytes) {
  return bytes_of<std::uint64_t>(header.size()) + header + std::string(data_bytes, '\1');
}

std::string npy(std::string header, std::size_t data_bytes) {
  header.resize((header.size() + 10 + 63) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  return std::string("\x93NUMPY\x01\0", 8) + bytes_of(static_cast<std::uint16_t>(header.size())) +
         header + std::string(data_bytes, '\1');
}

constexpr const char* kConfig =
    R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 12,
"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6, "head_dim": 4,
"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 500.0,
"tie_word_embeddings": true, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})";

constexpr const char* kTokenizer =
    R"json({"normalizer": null, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
{"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"
}
, "behavior" : "Isolated", "invert" : false
}, {"type": "Digits", "individual_digits": true},
{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]
}
, "added_tokens" : [ {"id" : 5, "content" : "<end>"} ], "model" : {
  "type" : "BPE",
           "unk_token" : null,
                         "ignore_merges" : false,
                                           "vocab" : {"a" : 0, "b" : 1, "ab" : 2, "abb" : 3},
                                                     "merges" : [ "a b", [ "ab", "b" ] ]
}
})json";

// The patterns of well-known tokenizers, in pieces.
constexpr const char* kPatterns[] = {
    "'(?i:[sdmt]|ll|ve|re)",         R"([^\r\n\p{L}\p{N}]?+\p{L}+)", R"(\p{N}{1,3})",
    R"( ?[^\s\p{L}\p{N}]++[\r\n]*)", R"(\s*[\r\n]|\s+(?!\S)|\s+)",   R"((a|b)*?\1(?<=x)\x{1F600})"};

}  // namespace

std::vector<Seed> seeds() {
  std::vector<Seed> seeds{
      {"gguf", gguf("gpt-2")},
      {"gguf", gguf("llama-bpe")},
      {"tensor_files", safetensors(R"({"__metadata__": {"format": "pt"},
"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
"b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}})",
                                   32)},
      {"tensor_files", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24)},
      {"tensor_files", npy("{'descr': '|i1', 'fortran_order': False, 'shape': (5,), }", 5)},
      {"json", kConfig},
      {"json", kTokenizer},
      {"options",
       "run\n--q\nq.npy\n--k\nk.safetensors:k\n--v\nv.npy\n--mask\nwindow:3,0\n"
       "--recipe\nint8qk+v_mean\n--out\no.npy\n--k-granularity\nblock:128"},
      {"options",
       "bench\n--op\nattention,sdpa\n--len-q\n1k,4k\n--dim-qk\n64\n--mask\ncausal\n"
       "--recipe\nfp8\n--threads\n2\n--json"},
      {"options", "eval\n--model\nm.gguf\n--text\nt.txt\n--modes\nexact,fp8\n--windows\nall"},
      {"text", "int8qk+v_mean+hadamard=qkv+smooth_k=off+fast+accumulation=plain"},
      {"text", "fp8-hadamard+smooth_q"},
      {"text", "[1, 2, 30]"},
      {"text", "1 2\n30, 4"},
      {"text",
       "abc \xc3\xa9 a\xff"
       "aab 1\r\n"},
  };
  for (const char* pattern : kPatterns) {
    seeds.push_back({"regex", std::string("\1ab 12\r\nx's ", 13) + pattern});
  }
  return seeds;
}

}  // namespace sotto::fuzz
