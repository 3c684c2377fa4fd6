// Stands in for model/cuda/ in a build without CUDA.
#include "base/error.h"
#include "model/cuda_device.h"

namespace nibble {

bool built_with_cuda() { return false; }

std::string cuda_problem() {
  return "this program was built without CUDA; configure with the preset cuda (docs/gpu.md)";
}

std::string cuda_device_name() { fail("--device cuda: {}", cuda_problem()); }
GpuMemory gpu_memory() { fail("--device cuda: {}", cuda_problem()); }
double measure_gpu_copy() { fail("--device cuda: {}", cuda_problem()); }

std::unique_ptr<ForwardPass> open_cuda_session(std::shared_ptr<const Model>, const SessionOptions&) {
  fail("--device cuda: {}", cuda_problem());
}

}  // namespace nibble
