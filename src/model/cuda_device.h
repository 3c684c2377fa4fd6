// The GPU as the rest of the program sees it. Without CUDA in the build (CMake: NIBBLE_CUDA) these functions
// exist too: model/cuda_absent.cpp says so in one line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "model/forward_pass.h"

namespace nibble {

bool built_with_cuda();

// Why no GPU can be used, in one line; empty where one can.
std::string cuda_problem();

struct GpuMemory {
  uint64_t used = 0;     // of the whole card, by cudaMemGetInfo
  uint64_t total = 0;    // of the card
  uint64_t process = 0;  // of this process, by NVML; 0 where NVML does not tell
};

// Throws Error where no GPU can be used.
std::string cuda_device_name();
GpuMemory gpu_memory();
// What NVML says of this process, or where it says nothing the whole card's; 0 for the processor. A session
// allocates nothing as it runs, so this is the peak as long as it is there.
uint64_t gpu_bytes_in_use(Device device);

// Bytes a second that a copy on the card reads and writes, together; the best of several.
double measure_gpu_copy();

// Weights are copied to the card once for each model, however many sessions there are. Throws Error where no
// GPU can be used or its memory does not suffice.
std::unique_ptr<ForwardPass> open_cuda_session(std::shared_ptr<const Model> model,
                                               const SessionOptions& options);

}  // namespace nibble
