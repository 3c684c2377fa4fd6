// Blocks that an interrupted quantization had finished, kept beside its result until that is complete.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quant/layer.h"
#include "tensor/packed.h"

namespace nibble {

// What replaces tensors of the original checkpoint; the rest stays as it is.
struct QuantizedTensors {
  struct Packed {
    PackedFormat format;
    PackedBuffers buffers;
    std::string method;
  };
  std::map<std::string, Packed> packed;  // by linear name
  std::map<std::string, std::vector<float>>
      floats;                        // by tensor name: folded norms and biases, rescaled layers
  std::vector<LayerReport> reports;  // in the order of the work
};

// Files of one block each in a folder. A file counts only with the key it was written under, which names
// everything that the result depends on.
class FinishedBlocks {
 public:
  FinishedBlocks(std::filesystem::path folder, std::string key);

  // Tensors and reports of `layer` from `all`, the reports being those from index `first_report` on.
  // Throws Error when the disk is full; what was there stays.
  void save(int layer, const QuantizedTensors& all, size_t first_report) const;
  // None when the block was not finished, or with another key, or its file is damaged.
  std::optional<QuantizedTensors> load(int layer) const;

 private:
  std::filesystem::path file(int layer) const;
  std::filesystem::path folder_;
  std::string key_;
};

}  // namespace nibble
