#include "kernels/cuda/gemv_kernel.cuh"

namespace nibble::cuda {

void gemv_q8(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  if (shape.wide) return launch_tiles<Form::kQ8, 1, true>(queue, call, shape, overlap);
  if (shape.steps == 2) return launch_tiles<Form::kQ8, 2, false>(queue, call, shape, overlap);
  launch_tiles<Form::kQ8, 1, false>(queue, call, shape, overlap);
}

}  // namespace nibble::cuda
