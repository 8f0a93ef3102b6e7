#include "models/hf_model.h"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <set>
#include <vector>

#include "models/file_error.h"
#include "models/hf_config.h"
#include "models/hf_tokenizer.h"
#include "models/json.h"
#include "models/mapped_file.h"
#include "models/safetensors.h"

namespace sotto::models {
namespace {

namespace fs = std::filesystem;

const LlamaTensorNames kTensorNames{
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .output = "lm_head.weight",
    .layer_prefix = "model.layers.",
    .attention_norm = "input_layernorm.weight",
    .q = "self_attn.q_proj.weight",
    .k = "self_attn.k_proj.weight",
    .v = "self_attn.v_proj.weight",
    .o = "self_attn.o_proj.weight",
    .ffn_norm = "post_attention_layernorm.weight",
    .gate = "mlp.gate_proj.weight",
    .up = "mlp.up_proj.weight",
    .down = "mlp.down_proj.weight",
    .unused = "rotary_emb.inv_freq",  // follows from the configuration
};

constexpr std::array kWeightTypes = {StorageType::f32, StorageType::f16, StorageType::bf16};

nlohmann::json parse_file(const fs::path& path) {
  const MappedFile file(path);
  return parse_json(file.name(), "JSON", file.text());
}

// The tensors of one or more files.
struct Checkpoint {
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  TensorMap tensors;
};

Checkpoint open_single(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.files.push_back(std::make_unique<SafetensorsFile>(path, kWeightTypes));
  checkpoint.tensors = checkpoint.files.front()->tensors();
  return checkpoint;
}

Checkpoint open_sharded(const fs::path& index_path) {
  const nlohmann::json document = parse_file(index_path);
  const JsonView map = JsonView(document, index_path.string(), "").at("weight_map");
  Checkpoint checkpoint;
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [tensor, value] : map.object().items()) {
    const JsonView entry = map.at(tensor);
    const std::string& shard = entry.text();
    // The index says which file beside it is read, never one elsewhere.
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      entry.fail("must be the name of a file in the same folder, got " + excerpt(shard));
    }
    const SafetensorsFile*& file = shards[shard];
    if (file == nullptr) {
      checkpoint.files.push_back(
          std::make_unique<SafetensorsFile>(index_path.parent_path() / shard, kWeightTypes));
      file = checkpoint.files.back().get();
    }
    const auto found = file->tensors().find(tensor);
    if (found == file->tensors().end()) entry.fail(excerpt(shard) + " has no such tensor");
    checkpoint.tensors.emplace(tensor, found->second);
  }
  return checkpoint;
}

Checkpoint open_folder(const fs::path& folder) {
  const fs::path single = folder / "model.safetensors";
  if (fs::exists(single)) return open_single(single);
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(index)) return open_sharded(index);
  std::set<fs::path> candidates;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") candidates.insert(entry.path());
  }
  if (candidates.size() != 1) {
    throw FileError(folder.string(), "folder",
                    fmt::format("must hold model.safetensors, model.safetensors.index.json or one "
                                "*.safetensors, found {} of the last",
                                candidates.size()));
  }
  return open_single(*candidates.begin());
}

}  // namespace

Model load_hugging_face(const fs::path& path, LoadTokenizer tokenizer) {
  const bool is_folder = fs::is_directory(path);
  const fs::path folder = is_folder ? path : fs::absolute(path).parent_path();
  const fs::path config_path = folder / "config.json";
  const nlohmann::json config_document = parse_file(config_path);
  const HfConfig config = read_hf_config({config_document, config_path.string(), ""});

  Model model{
      .name = fs::weakly_canonical(folder).filename().string(), .weights = {}, .tokenizer = {}};
  const Checkpoint checkpoint = is_folder ? open_folder(path) : open_single(path);
  model.weights =
      assemble_llama(config.llama, path.string(), checkpoint.tensors, kTensorNames, config.tied);
  // Only now is the size of the vocabulary more than the file's word.
  const fs::path tokenizer_path = folder / "tokenizer.json";
  if (tokenizer == LoadTokenizer::yes && fs::exists(tokenizer_path)) {
    const nlohmann::json document = parse_file(tokenizer_path);
    model.tokenizer =
        read_hf_tokenizer({document, tokenizer_path.string(), ""}, config.llama.vocab);
  }
  return model;
}

}  // namespace sotto::models
