#include "models/model_file.h"

#include <new>
#include <system_error>

#include "models/file_error.h"
#include "models/gguf_model.h"
#include "models/hf_model.h"

namespace sotto::models {

Model load_model(const std::filesystem::path& path, LoadTokenizer tokenizer) {
  try {
    if (path.extension() == ".gguf") return load_gguf(path, tokenizer);
    if (path.extension() == ".safetensors" || std::filesystem::is_directory(path)) {
      return load_hugging_face(path, tokenizer);
    }
    throw FileError(path.string(), "file",
                    std::filesystem::exists(path)
                        ? "is no model: expected a .gguf or .safetensors file, or a folder with "
                          "config.json and *.safetensors"
                        : "does not exist");
  } catch (const std::filesystem::filesystem_error& error) {
    throw FileError(path.string(), "file", error.code().message());
  } catch (const std::bad_alloc&) {
    throw FileError(path.string(), "file", "in fp32, the model does not fit into memory");
  }
}

}  // namespace sotto::models
