// Rotary frequencies (Su et al. 2021) and Llama 3's stretching of them.
#pragma once

#include <vector>

#include "model/model.h"

namespace nibble {

// Radians a position, of pair `pair` of a head's rotated dimensions, before any stretching.
double rope_frequency(const ModelConfig& config, int pair);
// The frequency that Llama 3 turns it into (transformers, _compute_llama3_parameters).
double stretched(double frequency, const RopeScaling& scaling);
// Radians a position of every pair of a head's rotated dimensions.
std::vector<double> rope_frequencies(const Model& model);
// [context][pairs][cos, sin] of every position.
std::vector<float> rope_table(const Model& model, int context);

}  // namespace nibble
