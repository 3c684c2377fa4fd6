// Where fine-tuned weights go: a Hugging Face directory, or peft's adapter format.
#include <filesystem>
#include <map>
#include <set>

#include "base/file.h"
#include "io/safetensors.h"
#include "quant/nibble_writer.h"
#include "tensor/dtype.h"
#include "train/finetune.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// values in the type of the tensor that they replace.
void write_as(DType dtype, const std::vector<float>& values, const ByteSink& sink) {
  if (dtype == DType::kF32) return sink(values.data(), values.size() * sizeof(float));
  std::vector<uint16_t> half(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    half[i] = dtype == DType::kBF16 ? float_to_bf16(values[i]) : float_to_fp16(values[i]);
  sink(half.data(), half.size() * sizeof(uint16_t));
}

}  // namespace

void write_fine_tuned(TrainedModel& trained, const fs::path& out, ThreadPool& pool) {
  const Model& model = trained.model();
  if (model.is_quantized())
    fail("{}: adapters cannot be merged into quantized weights; fine-tune the original, or keep the adapter",
         model.name());
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter* p : trained.parameters()) parameters[p->name] = p;
  std::map<std::string, const TrainedLinear*> merged;
  for (const TrainedBlock& block : trained.blocks) {
    for (const TrainedLinear& linear : block.linears) {
      if (linear.a.trained()) merged[linear.name() + ".weight"] = &linear;
    }
  }
  std::vector<StreamedTensor> tensors;
  for (const auto& [name, view] : model.checkpoint().tensors) {
    if (model.config.tied_head && name == std::string(model.architecture().names.head) + ".weight") continue;
    StreamedTensor tensor{name, view.dtype, view.shape, nullptr};
    if (const auto found = merged.find(name); found != merged.end()) {
      tensor.write = [linear = found->second, dtype = view.dtype, &pool](const ByteSink& sink) {
        std::vector<float> w(static_cast<size_t>(linear->n() * linear->k()));
        linear->materialize(w.data(), pool);
        write_as(dtype, w, sink);
      };
    } else if (const auto changed = parameters.find(name); changed != parameters.end()) {
      tensor.write = [p = changed->second, dtype = view.dtype](const ByteSink& sink) {
        write_as(dtype, p->value, sink);
      };
    } else {
      tensor.write = [&view](const ByteSink& sink) { sink(view.data, view.bytes()); };
    }
    tensors.push_back(std::move(tensor));
  }
  make_directory(out);
  write_safetensors(out / "model.safetensors", tensors, {{"format", "pt"}});
  write_beside_weights(model.checkpoint(), model.checkpoint().config, out);
}

void write_adapter(TrainedModel& trained, const FineTuneOptions& options, const fs::path& out) {
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::set<std::string> modules;
  const auto add = [&](const Parameter& p, int64_t rows, int64_t columns) {
    tensors.emplace_back(
        "base_model.model." + p.name,
        TensorView{DType::kF32, {rows, columns}, reinterpret_cast<const std::byte*>(p.value.data())});
  };
  for (const TrainedBlock& block : trained.blocks) {
    for (const TrainedLinear& linear : block.linears) {
      if (!linear.a.trained()) continue;
      add(linear.a, options.rank, linear.k());
      add(linear.b, linear.n(), options.rank);
      modules.insert(linear.name().substr(linear.name().rfind('.') + 1));
    }
  }
  if (tensors.empty()) fail("no adapter was trained");
  make_directory(out);
  write_safetensors(out / "adapter_model.safetensors", tensors, {{"format", "pt"}});
  const OrderedJson config = {{"peft_type", "LORA"},
                              {"task_type", "CAUSAL_LM"},
                              {"base_model_name_or_path", trained.model().name()},
                              {"r", options.rank},
                              {"lora_alpha", options.alpha},
                              {"lora_dropout", 0.0},
                              {"bias", "none"},
                              {"fan_in_fan_out", false},
                              {"inference_mode", true},
                              {"target_modules", modules}};
  write_file_atomically(out / "adapter_config.json", config.dump(2) + "\n");
}

}  // namespace nibble
