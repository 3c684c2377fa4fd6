// What a stage of the step kernel's ring (kernels/cuda/step_ring.cuh) costs a multiprocessor, apart from all
// else that a step does: cycles for its products, for bringing it in, and for both at a time. 4 bits, groups
// of 64 with zero points.
//
// usage: build/cuda/gpu_stage    (cmake --build --preset cuda; needs a card of compute capability 9.0)
#include <cstdio>
#include <vector>

#include "kernels/cuda/step_panels.cuh"

namespace nibble::cuda {
namespace {

constexpr int kStages = 9, kPanelStages = 5, kPanels = 200;  // of the ring; of a panel; panels a block
constexpr int kUnits = kPanelStages * kStageUnits, kGroup = kUnitInputs<Form::kQ4>;
constexpr int kInputBytes = kUnits * kGroup * 2, kSumBytes = kUnits * 32;
constexpr int kInputAt = static_cast<int>(round_up(sizeof(StepShared), 128)),
              kRingAt = kInputAt + kInputBytes + kSumBytes, kSharedBytes = kRingAt + kStages * kStageBytes;

enum class Stages { kThere, kRefilled };

// Goes through the part's panels, `times` over.
__global__ void __launch_bounds__(kStepThreads + 32, 1)
    stage_kernel(const __grid_constant__ StepPart part, int times, Stages stages, bool products, float* out,
                 long long* cycles) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char dynamic[];
  StepShared& shared = *reinterpret_cast<StepShared*>(dynamic);
  unsigned char *x = dynamic + kInputAt, *ring = dynamic + kRingAt;
  const int thread = fresh_thread(), lane = thread % 32, warp = thread / 32,
            own = static_cast<int>(blockIdx.x);
  for (int i = thread; i < (kSharedBytes - kInputAt) / 4; i += blockDim.x)
    reinterpret_cast<uint32_t*>(x)[i] = 0;
  if (thread == 0) open_gates(shared, kStages);
  __syncthreads();
  RingPlace place;
  if (thread >= kStepThreads) {
    if (thread > kStepThreads || stages == Stages::kThere) return;
    for (int i = 0; i < times; ++i) ask_for_panels(part, own, shared, ring, kStages, place);
    return;
  }
  const StepWeights weights = find_weights<Form::kQ4>(part, lane);
  const InputView input{reinterpret_cast<__half*>(x) + lane % 4 * 8,
                        reinterpret_cast<float*>(x + kInputBytes) + lane % 4 * 2};
  float acc[2][1] = {};
  const long long start = clock64();
#pragma unroll 1
  for (int i = 0; i < times; ++i) {
#pragma unroll 1
    for (int item = own; item < part.items; item += part.blocks) {
#pragma unroll 1
      for (int first = 0; first < kUnits; first += kStageUnits) {
        // Of stages that lie there no phase has ended, and the one before the first counts as ended.
        shared.full[place.stage].wait(stages == Stages::kRefilled ? place.parity : 1);
        const StageView view =
            view_stage<Form::kQ4, 4>(weights, ring + lane * 16 + place.stage * kStageBytes, item, first);
        if (products) multiply_whole_stage<Form::kQ4, 4, 1>(weights, view, first, warp, input, acc);
        leave_stage(shared, place, kStages, lane);
      }
    }
  }
  const long long end = clock64();
  out[own * kStepThreads + thread] = acc[0][0] + acc[1][0];
  if (thread == 0) cycles[own] = end - start;
#endif
}

// A part of so many panels a block, in `memory`.
StepPart part_of(int panels, std::vector<DeviceMemory>& memory) {
  StepPart part = {};
  part.blocks = device().multiprocessors;
  part.narrow = true;
  part.steps = 4;
  part.items = panels * part.blocks;
  part.sides = 1;
  part.units = part.groups = kUnits;
  part.stage_units = part.stage_groups = kStageUnits;
  part.gemv.n_jobs = 1;
  Weight& w = part.gemv.jobs[0].weight;
  const size_t units = static_cast<size_t>(part.items) * kUnits;
  w.data = memory.emplace_back(units * 512).as<void>();
  w.scales = memory.emplace_back(units * 32).as<void>();
  w.zeros = memory.emplace_back(units * kGroupZeros).as<uint8_t>();
  return part;
}

void measure(const char* what, const StepPart& part, Stages stages, bool products) {
  const int blocks = part.blocks, times = kPanels * blocks / part.items;
  DeviceMemory out(sizeof(float) * static_cast<size_t>(blocks * kStepThreads)),
      cycles(sizeof(long long) * static_cast<size_t>(blocks));
  check(cudaFuncSetAttribute(stage_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "shared memory");
  for (int run = 0; run < 2; ++run)
    stage_kernel<<<blocks, kStepThreads + 32, kSharedBytes>>>(part, times, stages, products, out.as<float>(),
                                                              cycles.as<long long>());
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
  std::vector<DeviceMemory> memory;
  const StepPart one = part_of(1, memory), all = part_of(kPanels, memory);  // 11 MB; 2.4 GB
  std::printf("%s: cycles a stage of %d KB\n", device().name.c_str(), kStageUnits / 2);
  measure("products of stages that are there", one, Stages::kThere, true);
  measure("products, stages from the card's cache", one, Stages::kRefilled, true);
  measure("products, stages from memory", all, Stages::kRefilled, true);
  measure("no products, stages from the card's cache", one, Stages::kRefilled, false);
  measure("no products, stages from memory", all, Stages::kRefilled, false);
}
