#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdlib>

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

struct MatrixProducts::Plan {
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

MatrixProducts::MatrixProducts() : library_(Library::get()), workspace_(kWorkspace) {
  cublasLtHandle_t handle = nullptr;
  check(library_.create(&handle), "opening");
  handle_ = handle;
}

MatrixProducts::~MatrixProducts() {
  plans_.clear();
  if (handle_) library_.destroy(static_cast<cublasLtHandle_t>(handle_));
}

// Column-major as cuBLAS sees it: yᵀ[n, m] = w[k, n]ᵀ · x[k, m].
const MatrixProducts::Plan& MatrixProducts::plan(const Key& key) {
  std::unique_ptr<Plan>& found = plans_[key];
  if (found) return *found;
  const auto [ldw, n, ldx, m, k, add, signed_ldy] = key;
  const int64_t ldy = std::abs(signed_ldy);
  auto plan = std::make_unique<Plan>(library_);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(library_.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
  check(library_.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "a product");
  const auto rows = static_cast<uint64_t>(k);
  check(library_.layout_create(&plan->w, CUDA_R_16BF, rows, static_cast<uint64_t>(n), ldw), "a layout");
  check(library_.layout_create(&plan->x, CUDA_R_16BF, rows, static_cast<uint64_t>(m), ldx), "a layout");
  check(library_.layout_create(&plan->y, CUDA_R_32F, static_cast<uint64_t>(n), static_cast<uint64_t>(m), ldy),
        "a layout");
  cublasLtMatmulPreference_t preference = nullptr;
  check(library_.preference_create(&preference), "a preference");
  const size_t room = kWorkspace;
  const uint32_t alignment = 16;
  check(library_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room),
        "a preference");
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES})
    check(library_.preference_set(preference, attribute, &alignment, sizeof alignment), "a preference");
  // Columns of y need not start at more than a number's own alignment.
  const uint32_t y_alignment = signed_ldy > 0 && ldy % 4 == 0 ? 16 : 4;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    check(library_.preference_set(preference, attribute, &y_alignment, sizeof y_alignment), "a preference");
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  const cublasStatus_t status =
      library_.heuristic(static_cast<cublasLtHandle_t>(handle_), plan->desc, plan->w, plan->x, plan->y,
                         plan->y, preference, 1, &result, &count);
  library_.preference_destroy(preference);
  check(status, "choosing how to multiply");
  if (count == 0) fail("GPU: cuBLASLt knows no way to multiply {} × {} × {}", m, n, k);
  plan->algorithm = result.algo;
  found = std::move(plan);
  return *found;
}

void MatrixProducts::run(Queue& queue, const void* w, int64_t ldw, int n, const void* x, int64_t ldx, int m,
                         int k, bool add, float* y, int64_t ldy) {
  // The column at which y starts decides how far its address is aligned.
  const bool aligned = reinterpret_cast<uintptr_t>(y) % 16 == 0;
  const Plan& p = plan({ldw, n, ldx, m, k, add, aligned ? ldy : -ldy});
  const float one = 1, beta = add ? 1 : 0;
  check(library_.matmul(static_cast<cublasLtHandle_t>(handle_), p.desc, &one, w, p.w, x, p.x, &beta, y, p.y,
                        y, p.y, &p.algorithm, workspace_.as<void>(), workspace_.bytes(),
                        static_cast<cudaStream_t>(queue.stream())),
        "multiplying");
}

}  // namespace nibble::cuda
