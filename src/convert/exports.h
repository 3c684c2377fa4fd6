// The parts of convert_model.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "convert/convert.h"
#include "io/safetensors.h"

namespace nibble {

// GPTQ, AWQ, compressed-tensors: a Hugging Face directory.
ConvertReport export_hugging_face(const Model& model, const ConvertOptions& options,
                                  const std::filesystem::path& out);
ConvertReport export_gguf(const Model& model, const ConvertOptions& options,
                          const std::filesystem::path& out);
ConvertReport export_nibble(const Model& model, const std::filesystem::path& out);

// Everything of a Hugging Face directory but weights and config.json: tokenizer, generation config, chat
// template.
void write_companions(const Model& model, const std::filesystem::path& out);

// Makes the directory; called once nothing can be refused any more.
void create_out(const std::filesystem::path& out);

// Linears of the blocks, then embedding and head where it is not the embedding.
std::vector<const Linear*> all_weights(const Model& model);

// The rows of a packed weight as F16, rounded to nearest even, in the order of row_of; handed on row by row.
void write_dequantized(const Linear& linear, const std::function<int64_t(int64_t)>& row_of,
                       const ByteSink& sink);

// Gives back the memory of mapped codes that have been read.
void release_codes(const Model& model, const PackedView& weight);

// "4-bit g64 symmetric", for messages and reports.
std::string packed_text(const PackedFormat& format);

}  // namespace nibble
