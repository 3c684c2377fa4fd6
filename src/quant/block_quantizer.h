// Quantizes a model block by block: the stream that reaches a layer has gone through the quantized
// layers before it, within the block too. Where errors are fed forward, the unquantized model's stream
// runs beside it. One sample in 16 is held out: layers are judged by it, not made by it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "quant/calibration.h"
#include "quant/compute.h"
#include "quant/finished_blocks.h"
#include "quant/layer.h"
#include "quant/plan.h"
#include "quant/statistics.h"

namespace nibble {

// Called before each block's stages with work done and to do, in blocks; may throw to cancel.
using BlockProgress = std::function<void(int done, int total)>;

class BlockQuantizer {
 public:
  BlockQuantizer(std::shared_ptr<const Model> model, const Calibration& calibration, const Plan& plan,
                 const LayerOptions& options, Device device, ThreadPool& pool);
  // All blocks; not the embedding and head. Those that `finished` holds are taken from it, the others left
  // there as they are done; null: nothing is kept.
  QuantizedTensors run(const BlockProgress& progress, const FinishedBlocks* finished = nullptr);
  // After run(), in the memory of the device: the residual stream of all samples, one after the other, as the
  // last block left it [tokens, hidden_size].
  const float* stream() const { return stream_; }

 private:
  struct Rows {  // of one sample
    const Batch& batch;
    int64_t count;
    float *h, *a;  // residual stream, attention outputs
    float* r;      // the unquantized model's residual stream; null where no layer's target needs it
    bool held_out;
  };
  struct Fold {  // the operation before, which takes up the channel scales
    Norm* norm = nullptr;
    std::string norm_name;
    Linear* rows = nullptr;  // a linear whose outputs are the channels
    int repeats = 1;         // query heads a key/value head: o's inputs a channel of v
    bool possible() const { return norm || rows; }
  };
  void quantize_block(int layer);
  void for_each_sample(const std::function<void(const Rows&)>& body);
  // n: width of the targets that `input` gives.
  InputStatistics collect(const std::vector<Linear*>& linears, int64_t n,
                          const std::function<Observed(const Rows&)>& input);
  bool feeds_forward(const Linear& linear) const;
  const float* normed(const Norm& norm, const float* h, int64_t rows, float* out);
  // target_ = what the output of a linear with `bias` is to be, for the stream h to become r.
  const float* target(const Rows& rows, const std::vector<float>& bias);
  // A stream goes through a block, with these buffers for what it meets there.
  struct Stream {
    float *h, *x, *attended, *inner;
  };
  void advance(const Block& block, int layer, const Rows& rows, const Stream& stream);
  Stream reference_stream(const Rows& rows) const {
    return {rows.r, reference_x_, reference_a_, reference_inner_};
  }
  // The block as `finished` has it, which goes into out_; the streams go on through it.
  void take_over(int layer, QuantizedTensors finished);
  // unclipped: the linears whose ranges are not to be clipped. True: channel scales went into the operation
  // before, so what it gave is out of date.
  bool quantize_group(const std::vector<Linear*>& linears, const InputStatistics& input, const Fold& fold,
                      const std::set<const Linear*>& unclipped = {});
  void install(Linear& linear, QuantizedLayer layer);
  void place(Linear& linear);  // what out_ has instead of its weights
  void fold_into(const Fold& fold, const std::vector<float>& scale);
  std::vector<int> channel_map(const Fold& fold, int64_t k) const;

  std::shared_ptr<const Model> model_;
  const Calibration& calibration_;
  const Plan& plan_;
  LayerOptions options_;
  ThreadPool& pool_;
  std::unique_ptr<Compute> compute_;   // and in its memory:
  float* stream_ = nullptr;            // residual stream of all samples [tokens, hidden]
  float* attended_ = nullptr;          // attention outputs of the block in hand [tokens, query size]
  float* reference_stream_ = nullptr;  // of the unquantized model [tokens, hidden], or null
  float *x_ = nullptr, *inner_ = nullptr, *projected_ = nullptr;  // of one sample
  float *reference_x_ = nullptr, *reference_a_ = nullptr, *reference_inner_ = nullptr, *target_ = nullptr;
  bool feeds_forward_ = false;  // some linear's method does
  size_t held_out_from_ = 0;    // samples from here on are held out
  QuantizedTensors out_;
};

}  // namespace nibble
