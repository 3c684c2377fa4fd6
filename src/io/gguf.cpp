#include "io/gguf.h"

#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "io/gguf_file.h"
#include "io/gguf_metadata.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

struct NamePair {
  std::string_view gguf, hugging_face;
};

constexpr std::array<NamePair, 9> kLlamaParts = {{{"attn_norm", "input_layernorm"},
                                                  {"ffn_norm", "post_attention_layernorm"},
                                                  {"attn_q", "self_attn.q_proj"},
                                                  {"attn_k", "self_attn.k_proj"},
                                                  {"attn_v", "self_attn.v_proj"},
                                                  {"attn_output", "self_attn.o_proj"},
                                                  {"ffn_gate", "mlp.gate_proj"},
                                                  {"ffn_up", "mlp.up_proj"},
                                                  {"ffn_down", "mlp.down_proj"}}};
constexpr std::array<NamePair, 8> kPhiParts = {
    {{"attn_norm", "input_layernorm"},
     {"attn_qkv", "self_attn.qkv_proj"},  // split into the next three
     {"attn_q", "self_attn.q_proj"},
     {"attn_k", "self_attn.k_proj"},
     {"attn_v", "self_attn.v_proj"},
     {"attn_output", "self_attn.dense"},
     {"ffn_up", "mlp.fc1"},
     {"ffn_down", "mlp.fc2"}}};

// Llama 3's rope factors have no Hugging Face name: the model reads them by this one.
constexpr std::string_view kRopeFactors = "rope_freqs.weight";

std::string_view find_part(GgufArchitecture architecture, std::string_view part) {
  const auto look = [&](const auto& table) -> std::string_view {
    for (const NamePair& pair : table) {
      if (pair.gguf == part) return pair.hugging_face;
    }
    return {};
  };
  return architecture == GgufArchitecture::kPhi2 ? look(kPhiParts) : look(kLlamaParts);
}

// The Hugging Face name, or "" for a tensor that the architecture does not have.
std::string hugging_face_name(GgufArchitecture architecture, const std::string& name) {
  const bool phi = architecture == GgufArchitecture::kPhi2;
  if (name == kRopeFactors) return name;
  const size_t last_dot = name.rfind('.');
  if (last_dot == std::string::npos) return "";
  const std::string_view kind = std::string_view(name).substr(last_dot + 1);
  if (kind != "weight" && kind != "bias") return "";
  const std::string_view stem = std::string_view(name).substr(0, last_dot);
  if (stem == "token_embd") return fmt::format("model.embed_tokens.{}", kind);
  if (stem == "output") return fmt::format("lm_head.{}", kind);
  if (stem == "output_norm") return fmt::format("model.{}.{}", phi ? "final_layernorm" : "norm", kind);

  const size_t middle_dot = stem.rfind('.');  // blk.LAYER.PART
  if (!stem.starts_with("blk.") || middle_dot < 5 || middle_dot == std::string_view::npos) return "";
  uint32_t layer = 0;
  const char *begin = stem.data() + 4, *end = stem.data() + middle_dot;
  const auto parsed = std::from_chars(begin, end, layer);
  const std::string_view part = find_part(architecture, stem.substr(middle_dot + 1));
  if (parsed.ec != std::errc{} || parsed.ptr != end || part.empty()) return "";
  return fmt::format("model.layers.{}.{}.{}", layer, part, kind);
}

// Rows [begin, begin + count) of a tensor, and the order they are wanted in.
struct Rows {
  int64_t begin, count;
  int64_t pairs_of_heads = 0;  // > 0: undo the interleaving of rotary pairs in this many heads
};

DType dtype_of(GgmlType type, GgufDType quantized) {
  switch (type) {
    case GgmlType::kF32:
      return DType::kF32;
    case GgmlType::kF16:
      return DType::kF16;
    case GgmlType::kBF16:
      return DType::kBF16;
    default:
      return quantized == GgufDType::kF32 ? DType::kF32 : DType::kBF16;
  }
}

class Loader {
 public:
  Loader(const GgufFile& gguf, GgufDType dtype, Checkpoint& checkpoint)
      : where_(gguf.file()->path().string()),
        file_(*gguf.file()),
        dtype_(dtype),
        architecture_(gguf_architecture(gguf)),
        heads_(gguf_heads(gguf)),
        checkpoint_(checkpoint) {}

  void add(const GgufTensor& tensor) {
    const std::string name = hugging_face_name(architecture_, tensor.name);
    if (name.empty()) {
      fail("{}: tensor {} is not one that this architecture is known to have", where_,
           quote_name(tensor.name));
    }
    const int64_t rows = tensor.shape[0];
    if (tensor.name == kRopeFactors && (tensor.type != GgmlType::kF32 || tensor.shape.size() != 1)) {
      fail("{}: tensor {} is {} of shape {}, expected a vector of F32", where_, quote_name(tensor.name),
           ggml_type_info(tensor.type).name, shape_string(tensor.shape));
    }
    if (architecture_ == GgufArchitecture::kPhi2 && name.find("qkv_proj") != std::string::npos) {
      add_split(tensor, name);
    } else if (architecture_ == GgufArchitecture::kLlama && name.find(".q_proj.") != std::string::npos) {
      add_rows(tensor, name, {0, rows, heads_.n_heads});
    } else if (architecture_ == GgufArchitecture::kLlama && name.find(".k_proj.") != std::string::npos) {
      add_rows(tensor, name, {0, rows, heads_.n_kv_heads});
    } else {
      add_rows(tensor, name, {0, rows});
    }
  }

 private:
  // Fused q, k and v lie one after another.
  void add_split(const GgufTensor& tensor, const std::string& name) {
    const int64_t q = heads_.n_heads * heads_.head_dim, kv = heads_.n_kv_heads * heads_.head_dim;
    if (tensor.shape[0] != q + 2 * kv) {
      fail("{}: tensor {} has {} rows, expected {} + 2 × {} of q, k and v", where_, quote_name(tensor.name),
           tensor.shape[0], q, kv);
    }
    const auto part = [&](const char* which) {
      std::string result = name;
      return result.replace(result.find("qkv_proj"), 8, fmt::format("{}_proj", which));
    };
    add_rows(tensor, part("q"), {0, q});
    add_rows(tensor, part("k"), {q, kv});
    add_rows(tensor, part("v"), {q + kv, kv});
  }

  void add_rows(const GgufTensor& tensor, const std::string& name, const Rows& rows) {
    const GgmlTypeInfo& info = ggml_type_info(tensor.type);
    TensorView view{dtype_of(tensor.type, dtype_), tensor.shape, nullptr};
    view.shape[0] = rows.count;
    if (rows.pairs_of_heads > 0 &&
        (rows.count != rows.pairs_of_heads * heads_.head_dim || heads_.head_dim % 2 != 0)) {
      fail("{}: tensor {} has {} rows, expected {} heads of {} (an even number)", where_,
           quote_name(tensor.name), rows.count, rows.pairs_of_heads, heads_.head_dim);
    }
    // A quantized vector is one row of blocks: its elements are not rows of their own.
    const bool quantized = is_quantized(tensor.type);
    if (quantized && tensor.shape.size() == 1) {
      fail("{}: tensor {} is a vector of type {}; vectors are expected as F32, F16 or BF16", where_,
           quote_name(tensor.name), info.name);
    }
    const size_t row_elements = static_cast<size_t>(view.elements() / rows.count);
    const size_t row_bytes = row_elements / info.block_elements * info.block_bytes;
    const std::span<const std::byte> source = tensor.data.subspan(
        static_cast<size_t>(rows.begin) * row_bytes, static_cast<size_t>(rows.count) * row_bytes);
    if (quantized || rows.pairs_of_heads > 0) {
      auto buffer = std::make_shared<AlignedBuffer<std::byte>>(view.bytes());
      expand(tensor.type, source, row_elements, row_bytes, rows, *buffer);
      view.data = buffer->data();
      checkpoint_.buffers.push_back(std::move(buffer));
      file_.release(source);
    } else {
      view.data = source.data();
    }
    checkpoint_.source_types[name] = info.name;
    if (!checkpoint_.tensors.emplace(name, std::move(view)).second) {
      fail("{}: tensor {} of the model is there twice", where_, quote_name(name));
    }
  }

  // llama.cpp stores row 2i + j of a head where Hugging Face has row j · head_dim/2 + i.
  void expand(GgmlType type, std::span<const std::byte> source, size_t row_elements, size_t row_bytes,
              const Rows& rows, AlignedBuffer<std::byte>& out) const {
    const size_t n_rows = static_cast<size_t>(rows.count);
    const size_t out_row = out.size() / n_rows;
    const size_t head = rows.pairs_of_heads > 0 ? n_rows / static_cast<size_t>(rows.pairs_of_heads) : 0;
    for (size_t r = 0; r < n_rows; ++r) {
      size_t from = r;
      if (head > 0) from = r / head * head + r % head % (head / 2) * 2 + r % head / (head / 2);
      const std::byte* in = source.data() + from * row_bytes;
      if (is_quantized(type)) {
        dequantize(type, in, row_elements, dtype_, out.data() + r * out_row);
      } else {
        std::memcpy(out.data() + r * out_row, in, row_bytes);
      }
    }
  }

  std::string where_;
  const MappedFile& file_;
  GgufDType dtype_;
  GgufArchitecture architecture_;
  GgufHeads heads_;
  Checkpoint& checkpoint_;
};

}  // namespace

Checkpoint open_gguf(const std::filesystem::path& path, GgufDType dtype, bool with_tokenizer) {
  const GgufFile gguf = GgufFile::open(path);
  if (gguf.integer_or("split.count", 1) > 1) {
    fail("{}: one part of a split GGUF; join the parts with llama.cpp's gguf-split --merge", path.string());
  }
  Checkpoint checkpoint;
  checkpoint.path = path;
  checkpoint.format = "gguf";
  checkpoint.files = {gguf.file()};
  checkpoint.weight_files = {path};
  checkpoint.file_bytes = gguf.file()->bytes().size();

  Loader loader(gguf, dtype, checkpoint);
  for (const GgufTensor& tensor : gguf.read_tensors()) loader.add(tensor);
  const auto embedding = checkpoint.tensors.find("model.embed_tokens.weight");
  if (embedding == checkpoint.tensors.end() || embedding->second.shape.size() != 2) {
    fail("{}: no matrix 'token_embd.weight' in the file", path.string());
  }
  const bool tied = !checkpoint.tensors.contains("lm_head.weight");
  checkpoint.config =
      gguf_config(gguf, embedding->second.shape[0], tied, dtype == GgufDType::kF32 ? "float32" : "bfloat16");
  checkpoint.generation_config = gguf_generation_config(gguf);
  if (with_tokenizer && gguf.has("tokenizer.ggml.model")) {
    checkpoint.tokenizer = gguf_tokenizer(gguf);
    const size_t n_tokens = checkpoint.tokenizer["model"]["vocab"].size();
    if (n_tokens > static_cast<size_t>(embedding->second.shape[0])) {
      fail("{}: {} tokens, but the embedding has {} rows", path.string(), n_tokens,
           embedding->second.shape[0]);
    }
  }
  return checkpoint;
}

std::string gguf_tensor_name(GgufArchitecture architecture, const std::string& name) {
  const size_t last_dot = name.rfind('.');
  if (last_dot == std::string::npos) return "";
  const std::string_view stem = std::string_view(name).substr(0, last_dot);
  const std::string kind = name.substr(last_dot);
  std::vector<std::string> candidates = {"token_embd" + kind, "output" + kind, "output_norm" + kind};
  if (constexpr std::string_view kLayers = "model.layers."; stem.starts_with(kLayers)) {
    const size_t dot = stem.find('.', kLayers.size());
    if (dot == std::string_view::npos) return "";
    const std::string_view layer = stem.substr(kLayers.size(), dot - kLayers.size());
    const auto add = [&](const auto& table) {
      for (const NamePair& pair : table) {
        if (pair.hugging_face == stem.substr(dot + 1))
          candidates.push_back(fmt::format("blk.{}.{}{}", layer, pair.gguf, kind));
      }
    };
    architecture == GgufArchitecture::kPhi2 ? add(kPhiParts) : add(kLlamaParts);
  }
  for (const std::string& candidate : candidates) {
    if (hugging_face_name(architecture, candidate) == name) return candidate;
  }
  return "";
}

Json read_gguf_tokenizer(const std::filesystem::path& path) { return gguf_tokenizer(GgufFile::open(path)); }

}  // namespace nibble
