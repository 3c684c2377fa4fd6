// A model in memory: its configuration, and views of its weights in the mapped checkpoint.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "text/tokenizer.h"

namespace nibble {

// y = x · wᵀ + bias with w [n, k] as it lies in the checkpoint, dense or packed.
struct Linear {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  int64_t n = 0, k = 0;
  DenseView dense;  // data null when packed
  std::optional<PackedView> packed;
  // Of act-order: [k], the packed weight's column j multiplies input order[j]; null: as they come. Linears
  // with the same order have the same pointer.
  const int32_t* order = nullptr;
  std::vector<float> bias;  // [n] or empty

  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
  size_t weight_bytes() const;
  void row(int64_t index, float* out, const KernelTable& table = kernels()) const;  // out[k]
  bool present() const { return n > 0; }
};

struct Norm {
  std::vector<float> weight, bias;  // [hidden]; bias empty for RMSNorm
};

struct Block {
  Norm attn_norm, mlp_norm;           // mlp_norm empty in a parallel block
  Linear q, k, v, o, gate, up, down;  // gate absent where the MLP has none
  // In this order, those that are not present too.
  std::array<Linear*, 7> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  std::array<const Linear*, 7> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

// How a linear of a nibble checkpoint was made; stands in config.json's quantization_config.
struct LinearFormat {
  std::string method;  // "gptq"
  int bits = 4;
  int group_size = 64;
  bool symmetric = false;
};

class Model {
 public:
  // Views into the checkpoint; nothing is copied but biases and norms. Throws Error when a tensor
  // is missing or its shape is not the configuration's.
  explicit Model(Checkpoint checkpoint);

  ModelConfig config;
  Linear embedding;  // [vocab, hidden], rows are gathered
  Linear head;       // [vocab, hidden]; the embedding's views when tied
  Norm final_norm;
  std::vector<Block> blocks;
  std::vector<float> rope_factors;  // divides the frequencies (GGUF's rope_freqs); empty: none

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const std::string& name() const { return name_; }  // the path as given
  const Architecture& architecture() const { return *architecture_; }
  Tokenizer load_tokenizer() const;  // throws Error when the checkpoint has none
  bool is_quantized() const;
  std::vector<const Linear*> linears() const;  // of the blocks, in order
  uint64_t parameters() const;
  uint64_t weight_bytes() const;  // as they lie in memory; a tied head counts once

 private:
  uint64_t norm_parameters() const;
  Norm read_norm(const std::string& prefix) const;
  Linear read_linear(const std::string& prefix, int64_t n, int64_t k, bool has_bias);

  // The order of a packed linear's inputs, checked; one pointer for equal ones.
  const int32_t* read_order(const std::string& linear, int64_t k);

  Checkpoint checkpoint_;
  std::vector<const int32_t*> orders_;  // distinct ones, with their lengths beside
  std::vector<int64_t> order_sizes_;
  std::string name_;
  const Architecture* architecture_ = nullptr;
};

// Opens, checks and maps: open_checkpoint + Model.
std::shared_ptr<const Model> load_model(const std::filesystem::path& path,
                                        GgufDType gguf_dtype = GgufDType::kBF16);

// The same with its tokenizer. The tokenizer's JSON, which takes more memory than many a model, is
// read and freed before the weights are.
struct LoadedModel {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
};
LoadedModel load_model_and_tokenizer(const std::filesystem::path& path,
                                     GgufDType gguf_dtype = GgufDType::kBF16);
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace nibble
