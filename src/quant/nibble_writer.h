// Writes a nibble directory (a Hugging Face directory whose packed tensors lie as the kernels read them).
#pragma once

#include <filesystem>

#include "model/model.h"
#include "quant/block_quantizer.h"

namespace nibble {

// Tensors of the original checkpoint, replaced as `tensors` says; config.json gains a
// quantization_config with `summary` (method, bits, group size, …) and the format of every linear.
void write_nibble_directory(const Model& model, const QuantizedTensors& tensors, const OrderedJson& summary,
                            const std::filesystem::path& out);

// What lies beside the weights of a Hugging Face directory: `config` as config.json, the tokenizer and the
// generation settings of `from`.
void write_beside_weights(const Checkpoint& from, const Json& config, const std::filesystem::path& out);

}  // namespace nibble
