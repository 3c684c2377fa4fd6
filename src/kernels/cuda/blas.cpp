#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <compare>
#include <map>
#include <utility>

#include "base/error.h"

namespace nibble::cuda {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;  // what NVIDIA advises for Hopper

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("GPU: cuBLASLt: {}: status {}", what, static_cast<int>(status));
}

}  // namespace

struct MatrixProducts::Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;

  Library() {
    const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library)
      library = dlopen((std::string(NIBBLE_CUDA_LIBRARIES) + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library)
      fail("--device cuda: {} was not found; install cuBLAS {} or name its folder in LD_LIBRARY_PATH", name,
           CUBLAS_VER_MAJOR);
    const auto find = [&](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
      if (!function) fail("--device cuda: {} has no {}", name, symbol);
    };
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(matmul, "cublasLtMatmul");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
  }

  static const Library& get() {
    static const Library library;
    return library;
  }
};

namespace {

struct Operand {
  int64_t ld;
  bool transposed;
  uint32_t alignment;  // bytes
  auto operator<=>(const Operand&) const = default;
};
struct Key {
  Number number;
  int64_t m, n, k;
  Operand a, b, y;
  auto operator<=>(const Key&) const = default;
};

}  // namespace

struct MatrixProducts::Plans {
  struct Plan;
  const Plan& get(const Library& library, cublasLtHandle_t handle, const Key& key);
  std::map<Key, std::unique_ptr<Plan>> made;
};

struct MatrixProducts::Plans::Plan {
  explicit Plan(const Library& l) : library(l) {}
  ~Plan() {
    if (desc) library.desc_destroy(desc);
    for (cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout) library.layout_destroy(layout);
    }
  }
  const Library& library;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

MatrixProducts::MatrixProducts()
    : library_(Library::get()), workspace_(kWorkspace), plans_(std::make_unique<Plans>()) {
  cublasLtHandle_t handle = nullptr;
  check(library_.create(&handle), "opening");
  handle_ = handle;
}

MatrixProducts::~MatrixProducts() {
  plans_.reset();
  if (handle_) library_.destroy(static_cast<cublasLtHandle_t>(handle_));
}

// Column-major as cuBLAS sees it, yᵀ[n, m] = bᵀ[n, k] · aᵀ[k, m]: a row-major matrix is its transpose.
const MatrixProducts::Plans::Plan& MatrixProducts::Plans::get(const Library& library, cublasLtHandle_t handle,
                                                              const Key& key) {
  std::unique_ptr<Plan>& found = made[key];
  if (found) return *found;
  auto plan = std::make_unique<Plan>(library);
  const bool wide = key.number == Number::kF64;
  const cudaDataType_t sum = wide ? CUDA_R_64F : CUDA_R_32F;
  const cudaDataType_t factor = key.number == Number::kF16 ? CUDA_R_16F : sum;
  check(library.desc_create(&plan->desc, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, sum), "a product");
  const auto transpose = [&](cublasLtMatmulDescAttributes_t attribute, bool wanted) {
    const cublasOperation_t operation = wanted ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(library.desc_set(plan->desc, attribute, &operation, sizeof operation), "a product");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, key.b.transposed);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, key.a.transposed);
  const auto layout = [&](cublasLtMatrixLayout_t* to, cudaDataType_t type, int64_t rows, int64_t columns,
                          const Operand& operand) {
    if (operand.transposed) std::swap(rows, columns);
    check(library.layout_create(to, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                operand.ld),
          "a layout");
  };
  layout(&plan->w, factor, key.n, key.k, key.b);
  layout(&plan->x, factor, key.k, key.m, key.a);
  layout(&plan->y, sum, key.n, key.m, key.y);
  cublasLtMatmulPreference_t preference = nullptr;
  check(library.preference_create(&preference), "a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(library.preference_set(preference, attribute, &value, sizeof value), "a preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.y.alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.y.alignment);
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  const cublasStatus_t status = library.heuristic(handle, plan->desc, plan->w, plan->x, plan->y, plan->y,
                                                  preference, 1, &result, &count);
  library.preference_destroy(preference);
  check(status, "choosing how to multiply");
  if (count == 0) fail("GPU: cuBLASLt knows no way to multiply {} × {} × {}", key.m, key.n, key.k);
  plan->algorithm = result.algo;
  found = std::move(plan);
  return *found;
}

void MatrixProducts::run(Queue& queue, Number number, const Factor& a, const Factor& b, int64_t m, int64_t n,
                         int64_t k, double alpha, double beta, void* y, int64_t ldy) {
  const int64_t sum_size = number == Number::kF64 ? 8 : 4, size = number == Number::kF16 ? 2 : sum_size;
  // All rows start as the first one does where their distance allows it, or at a number's own alignment.
  const auto operand = [](const void* data, int64_t ld, bool transposed, int64_t bytes) -> Operand {
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld * bytes % 16 == 0;
    return {ld, transposed, aligned ? 16u : static_cast<uint32_t>(bytes)};
  };
  const Plans::Plan& p =
      plans_->get(library_, static_cast<cublasLtHandle_t>(handle_),
                  {number, m, n, k, operand(a.data, a.ld, a.transposed, size),
                   operand(b.data, b.ld, b.transposed, size), operand(y, ldy, false, sum_size)});
  const float narrow[2] = {static_cast<float>(alpha), static_cast<float>(beta)};
  const double wide[2] = {alpha, beta};
  const bool is_wide = number == Number::kF64;
  check(
      library_.matmul(static_cast<cublasLtHandle_t>(handle_), p.desc,
                      is_wide ? static_cast<const void*>(wide) : narrow, b.data, p.w, a.data, p.x,
                      is_wide ? static_cast<const void*>(wide + 1) : narrow + 1, y, p.y, y, p.y, &p.algorithm,
                      workspace_.as<void>(), workspace_.bytes(), static_cast<cudaStream_t>(queue.stream())),
      "multiplying");
}

}  // namespace nibble::cuda
