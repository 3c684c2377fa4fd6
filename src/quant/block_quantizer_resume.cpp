// A block that an earlier run had finished takes its place, and the streams go on through it.
#include "quant/block_quantizer.h"

namespace nibble {

void BlockQuantizer::take_over(int layer, QuantizedTensors finished) {
  const Block& reference = model_->blocks[static_cast<size_t>(layer)];
  Block block = reference;
  const TensorNames& names = model_->architecture().names;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  out_.packed.merge(finished.packed);
  out_.floats.merge(finished.floats);
  for (LayerReport& report : finished.reports) out_.reports.push_back(std::move(report));
  const auto replace = [&](const std::string& name, std::vector<float>& values) {
    if (const auto found = out_.floats.find(name); found != out_.floats.end()) values = found->second;
  };
  const auto replace_norm = [&](Norm& norm, const std::string& name) {
    replace(name + ".weight", norm.weight);
    replace(name + ".bias", norm.bias);
  };
  replace_norm(block.attn_norm, prefix + names.attn_norm);
  if (!model_->config.parallel_block) replace_norm(block.mlp_norm, prefix + names.mlp_norm);
  for (Linear* linear : block.linears()) {
    if (!linear->present()) continue;
    replace(linear->name + ".bias", linear->bias);
    place(*linear);
  }
  compute_->weights_changed();
  for_each_sample([&](const Rows& s) {
    advance(block, layer, s, {s.h, x_, s.a, inner_});
    if (s.r) advance(reference, layer, s, reference_stream(s));
  });
}

}  // namespace nibble
