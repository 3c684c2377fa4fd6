#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace nibble {

double rope_frequency(const ModelConfig& config, int pair) {
  return 1.0 / std::pow(double{config.rope_theta}, 2.0 * pair / config.rope_dims);
}

double stretched(double frequency, const RopeScaling& s) {
  const double factor = double{s.factor}, wavelength = 2 * std::numbers::pi / frequency;
  const double low = s.original_context / double{s.low_freq_factor};
  const double high = s.original_context / double{s.high_freq_factor};
  if (wavelength > low) return frequency / factor;
  if (wavelength < high) return frequency;
  const double smooth = (s.original_context / wavelength - double{s.low_freq_factor}) /
                        (double{s.high_freq_factor} - double{s.low_freq_factor});
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

std::vector<double> rope_frequencies(const Model& model) {
  const ModelConfig& c = model.config;
  std::vector<double> frequencies;
  for (int i = 0; i < c.rope_dims / 2; ++i) {
    double f = rope_frequency(c, i);
    if (c.rope_scaling) f = stretched(f, *c.rope_scaling);
    if (!model.rope_factors.empty()) f /= double{model.rope_factors[static_cast<size_t>(i)]};
    frequencies.push_back(f);
  }
  return frequencies;
}

std::vector<float> rope_table(const Model& model, int context) {
  const auto frequencies = rope_frequencies(model);
  std::vector<float> table;
  table.reserve(static_cast<size_t>(context) * frequencies.size() * 2);
  for (int p = 0; p < context; ++p) {
    for (const double f : frequencies) {
      table.push_back(static_cast<float>(std::cos(p * f)));
      table.push_back(static_cast<float>(std::sin(p * f)));
    }
  }
  return table;
}

}  // namespace nibble
