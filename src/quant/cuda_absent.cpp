// Stands in for quant/cuda/ in a build without CUDA.
#include "base/error.h"
#include "model/cuda_device.h"
#include "quant/compute.h"

namespace nibble {

std::unique_ptr<Compute> open_cuda_compute(std::shared_ptr<const Model>, int, ThreadPool&) {
  fail("--device cuda: {}", cuda_problem());
}

}  // namespace nibble
