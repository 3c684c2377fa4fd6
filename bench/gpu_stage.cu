// What a stage of the step kernel's ring (kernels/cuda/step_ring.cuh) costs a multiprocessor, apart from all
// else that a step does: cycles for its products, for bringing it in, and for both at a time.
//
// usage: build/cuda/gpu_stage    (cmake --build --preset cuda; needs a card of compute capability 9.0)
#include <cstdio>
#include <vector>

#include "kernels/cuda/step_panels.cuh"

namespace nibble::cuda {
namespace {

constexpr int kStages = 9, kPanelStages = 5, kPanels = 200;
constexpr int kInputBytes = 20480, kInputSums = kPanelStages * kStageUnits * 32;
constexpr int kRingAt = static_cast<int>(round_up(sizeof(StepShared), 128)) + kInputBytes + kInputSums;

struct Trial {
  bool products;              // else stages are left as they are
  bool refill;                // each stage comes anew; else they lie there
  const unsigned char* from;  // `size` bytes to refill from
  size_t size;
  int bytes;  // of codes that are brought in
};

__global__ void __launch_bounds__(kStepThreads + 32, 1)
    stage_kernel(Trial trial, float* out, long long* cycles) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char dynamic[];
  StepShared& shared = *reinterpret_cast<StepShared*>(dynamic);
  unsigned char *x = dynamic + (sizeof(StepShared) + 127) / 128 * 128, *ring = dynamic + kRingAt;
  const int thread = fresh_thread(), lane = thread % 32, warp = thread / 32;
  for (int i = thread; i < (kInputBytes + kInputSums) / 4; i += blockDim.x)
    reinterpret_cast<uint32_t*>(x)[i] = 0x2c002c00;
  for (int i = thread; i < kStages * kStageBytes / 4; i += blockDim.x)
    reinterpret_cast<uint32_t*>(ring)[i] = i * 2654435761u & 0x17ff17ff;
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(kStepWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  RingPlace place;
  if (thread >= kStepThreads) {
    if (thread > kStepThreads || !trial.refill) return;
    uint64_t once;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    constexpr int kFactors = 1024 + kStageUnits * kGroupZeros;  // bytes of scales and zero points
    size_t at = size_t{blockIdx.x} * kStageBytes / 16 * 16;
    for (int i = 0; i < kPanels * kPanelStages; ++i) {
      unsigned char* stage = ring + place.stage * kStageBytes;
      Gate& gate = shared.full[place.stage];
      shared.empty[place.stage].wait(place.parity ^ 1);
      gate.expect_bytes(trial.bytes + kFactors);
      copy_in_once(stage, trial.from + at, trial.bytes, gate, once);
      copy_in_once(stage + kStageUnits * 512, trial.from + at, 1024, gate, once);
      copy_in_once(stage + kStageUnits * 512 + 1024, trial.from + at + 1024, kFactors - 1024, gate, once);
      at += size_t{gridDim.x} * kStageBytes;
      if (at + kStageBytes > trial.size) at = size_t{blockIdx.x} * kStageBytes;
      place.next(kStages);
    }
    return;
  }
  StepWeights w = {};
  w.units = w.groups = kPanelStages * kStageUnits;
  w.stage_units = kStageUnits;
  w.scales_at = kStageUnits * 512 - lane * 16 + lane / 4 * 4;
  w.zeros_at = kStageUnits * 512 - lane * 16 + kStageUnits * 32 + lane / 4;
  w.has_zeros = true;
  const InputView input{reinterpret_cast<__half*>(x) + lane % 4 * 8,
                        reinterpret_cast<float*>(x + kInputBytes) + lane % 4 * 2};
  float acc[2][1] = {};
  const long long start = clock64();
#pragma unroll 1
  for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll 1
    for (int first = 0; first < w.units; first += kStageUnits) {
      // Of stages that lie there no phase has ended, and the one before the first counts as ended.
      shared.full[place.stage].wait(trial.refill ? place.parity : 1);
      const StageView view =
          view_stage<Form::kQ4, 4>(w, ring + lane * 16 + place.stage * kStageBytes, panel, first);
      if (trial.products) multiply_whole_stage<Form::kQ4, 4, 1>(w, view, first, warp, input, acc);
      leave_stage(shared, place, kStages, lane);
    }
  }
  const long long end = clock64();
  out[blockIdx.x * kStepThreads + thread] = acc[0][0] + acc[1][0];
  if (thread == 0) cycles[blockIdx.x] = end - start;
#endif
}

void measure(const char* what, const Trial& trial, int bytes_of_codes = kStageUnits * 512) {
  const int blocks = device().multiprocessors, shared = kRingAt + kStages * kStageBytes;
  DeviceMemory out(size_t{sizeof(float)} * static_cast<size_t>(blocks * kStepThreads)),
      cycles(sizeof(long long) * static_cast<size_t>(blocks));
  check(cudaFuncSetAttribute(stage_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "shared memory");
  Trial full = trial;
  full.bytes = bytes_of_codes;
  for (int run = 0; run < 2; ++run)
    stage_kernel<<<blocks, kStepThreads + 32, shared>>>(full, out.as<float>(), cycles.as<long long>());
  std::vector<long long> found(static_cast<size_t>(blocks));
  check(cudaMemcpy(found.data(), cycles.as<void>(), cycles.bytes(), cudaMemcpyDeviceToHost), "a kernel");
  long long sum = 0;
  for (const long long each : found) sum += each;
  std::printf("%-42s %6.0f\n", what, static_cast<double>(sum) / blocks / (kPanels * kPanelStages));
}

}  // namespace
}  // namespace nibble::cuda

int main() {
  using namespace nibble::cuda;
  if (const std::string why = problem(); !why.empty() || device().major < 9) {
    std::fprintf(stderr, "gpu_stage: needs a card of compute capability 9.0%s%s\n", why.empty() ? "" : ": ",
                 why.c_str());
    return 1;
  }
  constexpr size_t kCached = size_t{24} << 20, kAll = size_t{4} << 30;
  DeviceMemory memory(kAll);
  const unsigned char* from = memory.as<unsigned char>();
  std::printf("%s: cycles a stage of %d KB\n", device().name.c_str(), kStageUnits / 2);
  measure("products of stages that are there", {true, false, from, kAll, 0});
  measure("products, stages from the card's cache", {true, true, from, kCached, 0});
  measure("products, stages from memory", {true, true, from, kAll, 0});
  measure("products, a thirty-second from memory", {true, true, from, kAll, 0}, 512);
  measure("no products, stages from the card's cache", {false, true, from, kCached, 0});
  measure("no products, stages from memory", {false, true, from, kAll, 0});
}
