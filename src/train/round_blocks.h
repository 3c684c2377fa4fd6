// Learned rounding of a quantized model, block by block: each block's integers and grids (train/rounding.h)
// move so that what the quantized model has after it comes nearer to what the original has there. Its input
// is the stream as the quantized, already learned blocks before leave it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/json.h"
#include "model/model.h"
#include "quant/calibration.h"
#include "quant/finished_blocks.h"

namespace nibble {

struct RoundingOptions {
  int steps = 100;        // a block
  int batch = 4;          // sequences a step
  int sequences = 128;    // of the text, taken in turn
  double rate = 0.005;    // a step moves a shift by so much of a grid's step at first, falling to 0; ends'
                          // factors by a fifth
  int checks = 4;         // a block: times that the held-out text is looked at on the way
  void validate() const;  // throws UsageError
};

struct RoundingReport {
  struct OfBlock {
    double before = 0, after = 0;  // mean over held-out tokens of ‖output − original's‖² / ‖original's‖²
    int best_step = 0;             // whose integers were kept; 0: the method's
    double changed = 0;            // share of the integers that are not the method's
  };
  std::vector<OfBlock> blocks;
  double kl_before = 0, kl_after = 0;  // of the whole model, on the held-out text
  double seconds = 0;
  uint64_t peak_rss = 0;
  bool kept() const { return kl_after < kl_before; }
};
OrderedJson to_json(const RoundingReport& report, const RoundingOptions& options);

// done of total steps; error: the block's, as above, of the step's text.
using RoundingProgress = std::function<void(int done, int total, double error)>;

// Learns on `text`, whose last `held_out` samples are only looked at. `quantized`'s packed linears are given
// the better integers, which lie in `buffers`; where the whole model's KL did not fall they stay as they
// were. Blocks that are done lie in `folder` until it is removed, by which a stopped call goes on; an empty
// one: nothing is kept. Throws Error where there is nothing to learn.
RoundingReport round_blocks(std::shared_ptr<const Model> original, const std::shared_ptr<Model>& quantized,
                            const Calibration& text, size_t held_out, const RoundingOptions& options,
                            const std::filesystem::path& folder, ThreadPool& pool,
                            const RoundingProgress& progress, QuantizedTensors& buffers);

}  // namespace nibble
