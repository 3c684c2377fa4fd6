// What a model is, in numbers: `nibble info`, and the head of every measurement.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/json.h"
#include "model/model.h"

namespace nibble {

struct ModelFacts {
  std::string architecture;    // "Llama"
  std::string format;          // "safetensors", "gguf", "nibble"
  uint64_t parameters = 0;     // a tied head counts once
  uint64_t file_bytes = 0;     // of the weight files
  double bits_per_weight = 0;  // 8 · file_bytes / parameters: embedding, head and scales included
  uint64_t weight_bytes = 0;   // as they lie in memory
  uint64_t body_bytes = 0, embedding_bytes = 0, head_bytes = 0, other_bytes = 0;  // their parts
  uint64_t body_parameters = 0, embedding_parameters = 0, head_parameters = 0, other_parameters = 0;
  std::map<std::string, int> formats;  // linears of the blocks: {"bf16": 42}, {"gptq 4-bit g64": 42}
  std::string embedding_format, head_format;
  std::map<std::string, int> source_types;  // GGUF: tensors by the type in the file, {"Q4_1": 210}
};
ModelFacts model_facts(const Model& model);

// {"body", "embedding", "head", "other"}: {"parameters", "bytes"}, bytes as they lie in memory. A tied head
// is 0; "other" holds norms and biases.
OrderedJson parts_json(const ModelFacts& facts);

// {"method", "bits", "group_size", "bits_per_weight"} of the commonest linear format; null when nothing
// is quantized here.
OrderedJson quantization_summary(const Model& model);

// The object of `info --json`.
OrderedJson to_json(const ModelFacts& facts, const Model& model, const std::string& sha256);

}  // namespace nibble
