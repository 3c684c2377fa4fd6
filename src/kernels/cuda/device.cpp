#include "kernels/cuda/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {

std::string find_problem() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0)
      return fmt::format("the NVIDIA driver is for CUDA {}.{}, this program needs {}.{}", driver / 1000,
                         driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return "no NVIDIA driver was found";
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return "no NVIDIA GPU was found";
  if (error != cudaSuccess) return cudaGetErrorString(error);
  cudaDeviceProp properties = {};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return "the GPU does not tell its properties";
  if (properties.major < 8)
    return fmt::format("{} has compute capability {}.{}; 8.0 is needed", properties.name, properties.major,
                       properties.minor);
  return "";
}

// NVML, the driver's own library, opened where it is there; its header is not among those of the toolkit's
// smallest packages, so the few declarations in use stand here.
struct NvmlProcess {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};

uint64_t process_bytes() {
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return 0;
  const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto handle =
      reinterpret_cast<int (*)(const char*, void**)>(dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto processes = reinterpret_cast<int (*)(void*, unsigned*, NvmlProcess*)>(
      dlsym(library, "nvmlDeviceGetComputeRunningProcesses_v3"));
  const auto end = reinterpret_cast<int (*)()>(dlsym(library, "nvmlShutdown"));
  uint64_t bytes = 0;
  if (init && handle && processes && end && init() == 0) {
    std::array<char, 32> bus = {};
    void* card = nullptr;
    if (cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), 0) == cudaSuccess &&
        handle(bus.data(), &card) == 0) {
      std::vector<NvmlProcess> all(64);
      unsigned count = static_cast<unsigned>(all.size());
      if (processes(card, &count, all.data()) == 0) {
        for (unsigned i = 0; i < count; ++i) {
          // All bits set: not available.
          if (all[i].pid == static_cast<unsigned>(getpid()) && all[i].used != ~0ull) bytes = all[i].used;
        }
      }
    }
    end();
  }
  dlclose(library);
  return bytes;
}

cudaStream_t stream_of(const Queue& queue) { return static_cast<cudaStream_t>(queue.stream()); }

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail("GPU: {}: {}", what, cudaGetErrorString(error));
}

void expect(bool condition) { NIBBLE_CHECK(condition); }

std::string problem() {
  static const std::string found = find_problem();
  return found;
}

const DeviceFacts& device() {
  static const DeviceFacts facts = [] {
    if (!problem().empty()) fail("--device cuda: {}", problem());
    cudaDeviceProp properties = {};
    check(cudaSetDevice(0), "choosing the card");
    check(cudaGetDeviceProperties(&properties, 0), "the card's properties");
    return DeviceFacts{properties.name, properties.multiProcessorCount, properties.major,
                       static_cast<int>(properties.sharedMemPerBlockOptin),
                       static_cast<int>(properties.sharedMemPerMultiprocessor)};
  }();
  return facts;
}

MemoryFacts memory() {
  device();
  size_t unused = 0, total = 0;
  check(cudaMemGetInfo(&unused, &total), "the card's memory");
  return {total - unused, total, process_bytes()};
}

DeviceMemory::DeviceMemory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  device();
  const cudaError_t error = cudaMalloc(&data_, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t unused = 0, total = 0;
    cudaMemGetInfo(&unused, &total);
    fail("out of GPU memory: {:.1f} MB asked for, {:.1f} of {:.1f} MB are free",
         static_cast<double>(bytes) / 1e6, static_cast<double>(unused) / 1e6,
         static_cast<double>(total) / 1e6);
  }
  check(error, "memory on the card");
  // Queues do not wait for the default stream.
  check(cudaMemset(data_, 0, bytes), "clearing memory on the card");
  check(cudaStreamSynchronize(nullptr), "clearing memory on the card");
}

DeviceMemory::~DeviceMemory() {
  if (data_) cudaFree(data_);
}

PinnedMemory::PinnedMemory(size_t bytes) {
  device();
  check(cudaMallocHost(&data_, bytes), "pinned memory");
}

PinnedMemory::~PinnedMemory() {
  if (data_) cudaFreeHost(data_);
}

Graph::~Graph() {
  if (executable_) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}

Queue::Queue() {
  device();
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  stream_ = stream;
}

Queue::~Queue() {
  if (stream_) cudaStreamDestroy(stream_of(*this));
}

void Queue::to_device(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_of(*this)), "copying to the card");
}

void Queue::to_host(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(*this)), "copying from the card");
}

void Queue::rows_to_device(void* to, size_t to_stride, const void* from, size_t row_bytes, size_t rows) {
  if (to_stride == row_bytes) return to_device(to, from, row_bytes * rows);
  check(cudaMemcpy2DAsync(to, to_stride, from, row_bytes, row_bytes, rows, cudaMemcpyHostToDevice,
                          stream_of(*this)),
        "copying to the card");
}

void Queue::copy_rows(void* to, const void* from, size_t stride, size_t row_bytes, size_t rows) {
  check(cudaMemcpy2DAsync(to, stride, from, stride, row_bytes, rows, cudaMemcpyDeviceToDevice,
                          stream_of(*this)),
        "copying on the card");
}

void Queue::wait() { check(cudaStreamSynchronize(stream_of(*this)), "waiting for the card"); }

void Queue::begin_recording() {
  check(cudaStreamBeginCapture(stream_of(*this), cudaStreamCaptureModeThreadLocal), "recording");
}

Graph Queue::end_recording() {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_of(*this), &graph), "recording");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "making a graph");
  return Graph(executable);
}

void Queue::run(const Graph& graph) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.executable()), stream_of(*this)),
        "running a graph");
}

double measure_copy() {
  const MemoryFacts now = memory();
  const size_t bytes = std::min<size_t>(size_t{1} << 30, static_cast<size_t>((now.total - now.used) / 4));
  const DeviceMemory from(bytes), to(bytes);
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "an event");
  check(cudaEventCreate(&end), "an event");
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    check(cudaEventRecord(begin), "an event");
    check(cudaMemcpyAsync(to.as<char>(), from.as<char>(), bytes, cudaMemcpyDeviceToDevice), "a copy");
    check(cudaEventRecord(end), "an event");
    check(cudaEventSynchronize(end), "a copy");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "an event");
    best = std::max(best, 2.0 * static_cast<double>(bytes) / (static_cast<double>(ms) / 1000));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

}  // namespace nibble::cuda
