#include "io/checkpoint.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "base/sha256.h"
#include "io/directory_config.h"
#include "io/foreign/repack.h"
#include "io/gguf.h"
#include "io/quote_name.h"
#include "io/safetensors.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGetModel =
    "a model is a Hugging Face directory (config.json, model.safetensors) or a .gguf file";

bool path_exists(const fs::path& path) {
  std::error_code error;  // what cannot be looked at counts as absent; opening it says why
  return fs::exists(path, error);
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool has_gguf_magic(const fs::path& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

Json read_optional_object(const fs::path& path) {
  return path_exists(path) ? read_json_object(path) : Json();
}

void add_weight_file(Checkpoint& checkpoint, const fs::path& path) {
  SafetensorsFile file = open_safetensors(path);
  for (auto& [name, view] : file.tensors) {
    if (!checkpoint.tensors.emplace(name, std::move(view)).second) {
      fail("{}: tensor {} is already in another file of this model", path.string(), quote_name(name));
    }
  }
  checkpoint.file_bytes += file.file->bytes().size();
  checkpoint.weight_files.push_back(path);
  checkpoint.files.push_back(std::move(file.file));
  std::move(file.buffers.begin(), file.buffers.end(), std::back_inserter(checkpoint.buffers));
}

// The shard's path, which must stay in the directory (links in it are the owner's own doing).
fs::path shard_path(const fs::path& directory, const std::string& shard, const std::string& index) {
  const fs::path relative(shard);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (shard.empty() || shard.find('\0') != std::string::npos || relative.is_absolute() || climbs) {
    fail("{}: the file name {} leads out of the directory", index, quote_name(shard));
  }
  if (!path_exists(directory / relative)) {
    fail("{}: it names {}, which is not there; the download may be incomplete", index, quote_name(shard));
  }
  return directory / relative;
}

void add_sharded_weights(Checkpoint& checkpoint, const fs::path& index_path) {
  const std::string where = index_path.string();
  const Json weight_map = json_get<Json>(read_json_object(index_path), "weight_map", where);
  if (!weight_map.is_object())
    fail("{}: 'weight_map' is a JSON {}, expected an object", where, weight_map.type_name());
  std::map<std::string, std::vector<std::string>> names_of_shard;
  for (const auto& [name, shard] : weight_map.items()) {
    if (!shard.is_string()) fail("{}: the file of tensor {} is not a string", where, quote_name(name));
    names_of_shard[shard.get<std::string>()].push_back(name);
  }
  if (names_of_shard.empty()) fail("{}: 'weight_map' is empty", where);
  for (const auto& [shard, names] : names_of_shard) {
    add_weight_file(checkpoint, shard_path(checkpoint.path, shard, where));
    for (const std::string& name : names) {
      if (!checkpoint.tensors.contains(name)) {
        fail("{}: tensor {} should be in {}, but is not", where, quote_name(name), quote_name(shard));
      }
    }
  }
}

Checkpoint open_directory(const fs::path& directory, bool with_tokenizer) {
  Checkpoint checkpoint;
  checkpoint.path = directory;
  const fs::path config = directory / "config.json";
  if (!path_exists(config)) fail("{}: no config.json there; {}", directory.string(), kGetModel);
  checkpoint.config = read_directory_config(directory);
  const Json quantization =
      json_get_or<Json>(checkpoint.config, "quantization_config", Json(), config.string());
  const bool packed = json_get_or<std::string>(quantization, "quant_method", "", config.string()) == "nibble";
  checkpoint.format = packed ? "nibble" : "safetensors";
  if (with_tokenizer) checkpoint.tokenizer = read_optional_object(directory / "tokenizer.json");
  checkpoint.generation_config = read_optional_object(directory / "generation_config.json");

  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (path_exists(single)) {
    add_weight_file(checkpoint, single);
  } else if (path_exists(index)) {
    add_sharded_weights(checkpoint, index);
  } else if (path_exists(directory / "pytorch_model.bin") ||
             path_exists(directory / "pytorch_model.bin.index.json")) {
    fail(
        "{}: weights only as pytorch_model.bin, which is not read here; save the model with "
        "safe_serialization=True to get model.safetensors",
        directory.string());
  } else {
    fail("{}: neither model.safetensors nor model.safetensors.index.json there; download the weights too",
         directory.string());
  }
  if (has_foreign_quantization(checkpoint.config)) repack_foreign(checkpoint);
  return checkpoint;
}

}  // namespace

Checkpoint open_checkpoint(const fs::path& path, GgufDType gguf_dtype, bool with_tokenizer) {
  if (!path_exists(path)) fail("{}: no such file or directory; {}", path.string(), kGetModel);
  if (is_folder(path)) return open_directory(path, with_tokenizer);
  if (path.extension() == ".gguf" || has_gguf_magic(path)) return open_gguf(path, gguf_dtype, with_tokenizer);
  fail("{}: not a model; {}{}", path.string(), kGetModel,
       path.extension() == ".safetensors" ? ": name the directory, not the file" : "");
}

Json load_tokenizer_json(const fs::path& path) {
  if (!path_exists(path)) fail("{}: no such file or directory; {}", path.string(), kGetModel);
  if (is_folder(path)) {
    const fs::path file = path / "tokenizer.json";
    if (!path_exists(file)) {
      fail("{}: no tokenizer.json there; other tokenizer files (vocab.json, tokenizer.model) are not read",
           path.string());
    }
    return read_json_object(file);
  }
  if (path.extension() == ".gguf" || has_gguf_magic(path)) return read_gguf_tokenizer(path);
  return read_json_object(path);
}

void release_pages(const Checkpoint& checkpoint, std::span<const std::byte> part) {
  for (const auto& file : checkpoint.files) {
    const auto whole = file->bytes();
    if (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size())
      file->release(part);
  }
}

std::string checkpoint_sha256(const Checkpoint& checkpoint) {
  // Read, not taken from the mapping: hashing must not count as the model's resident memory.
  Sha256 hash;
  std::vector<char> chunk(size_t{1} << 20);
  for (const fs::path& path : checkpoint.weight_files) {
    std::ifstream file(path, std::ios::binary);
    while (file) {
      file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
      hash.update({reinterpret_cast<const std::byte*>(chunk.data()), static_cast<size_t>(file.gcount())});
    }
    if (!file.eof()) fail("{}: cannot be read", path.string());
  }
  return hash.hex();
}

std::string checkpoint_outline_sha256(const Checkpoint& checkpoint) {
  constexpr size_t kBeginning = 4096;
  Sha256 hash;
  hash.update(checkpoint.config.dump());
  for (const auto& [name, view] : checkpoint.tensors) {
    hash.update(fmt::format("{} {} {}", name, dtype_name(view.dtype), view.bytes()));
    hash.update(std::span(view.data, std::min(view.bytes(), kBeginning)));
  }
  return hash.hex();
}

}  // namespace nibble
