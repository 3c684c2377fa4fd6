#include "kernels/cuda/gemv_kernel.cuh"

namespace nibble::cuda {

void gemv_f16(Queue& queue, const Gemv& call, const GemvShape& shape, bool overlap) {
  launch_tiles<Form::kF16, 1, false>(queue, call, shape, overlap);
}

}  // namespace nibble::cuda
