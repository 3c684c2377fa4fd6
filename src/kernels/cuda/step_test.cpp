// The step's kernel against float64 loops and against the kernels that it stands for. Skips where no card can
// be used, or one that is too old for it.
#include "kernels/cuda/step.h"

#include "kernels/cuda/ops_fixture.h"

namespace nibble::cuda {
namespace {

class CudaStep : public CudaOps {
 protected:
  void SetUp() override {
    CudaOps::SetUp();
    if (queue_ && device().major < 9) GTEST_SKIP() << "needs compute capability 9.0";
  }
  void run(StepProgram& program) {
    program.upload(*queue_);
    program.run(*queue_, false);
    queue_->wait();
  }
  void* zeros(size_t bytes) {
    memory_.emplace_back(bytes);
    return memory_.back().as<void>();
  }
};

TEST_F(CudaStep, ProductsMatchFloat64ForEveryFormat) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (const int group : {16, 32, 64, 128, 0, 96}) {
      for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
               {17, 100}, {33, 256}, {8, 600}, {2300, 96}, {5000, 1}, {20, 4200}}) {
        PackedFormat f{bits, group, n == 8, n, k};
        Made made = packed(f, count(bits * 1000 + group));
        const auto bias = normals(count(n), 7);
        made.weight.bias = up(bias);
        for (const int rows : {1, 2, 4}) {
          auto x = normals(count(rows * k), 8);
          const bool add = rows == 2;
          const auto before = add ? normals(count(rows * n), 9) : std::vector<float>();
          const void* input = up_parts(x, rows, static_cast<int>(k), 1);
          float* y = add ? up(before) : poisoned(count(rows * n));
          const Gemv call = gemv_of(made.weight, input, input_stride(k), rows, 1, add, y, n);
          ASSERT_EQ(StepProgram::takes(call), group != 96 || k <= 96) << group;
          if (!StepProgram::takes(call)) continue;
          StepProgram program;
          program.add(call);
          run(program);
          expect_product(down<float>(y, count(rows * n)), before, x, made, bias, rows, 4e-6,
                         fmt::format("bits {} group {} n {} k {} rows {}", bits, group, n, k, rows));
          if (HasFatalFailure()) return;
        }
        forget();
      }
    }
  }
}

// A layer of each kind, several times over: the same as its kernels one by one, and each run the same.
TEST_F(CudaStep, LayersAreWhatTheirKernelsMake) {
  for (const bool parallel : {false, true}) {
    for (const int rows : {1, 2}) {
      const int hidden = 192, heads = 12, kv_heads = parallel ? 12 : 4, dim = 16, inner = 3000, context = 300;
      const int query = heads * dim, width = (heads + 2 * kv_heads) * dim, at = 200;
      const auto make = [&](int n, int k, uint64_t seed) {
        return packed({4, 64, false, n, k}, seed).weight;
      };
      const Weight q = make(query, hidden, 1), kv = make(kv_heads * dim, hidden, 2),
                   v = make(kv_heads * dim, hidden, 3), o = make(hidden, query, 4),
                   gate = make(inner, hidden, 5), upward = make(inner, hidden, 6),
                   down_weight = make(hidden, inner, 7);
      const NormWeight norm{up(normals(count(hidden), 8)), parallel ? up(normals(count(hidden), 9)) : nullptr,
                            1e-5f};
      std::vector<float> rope(count(context * dim), 0.6f);
      Attention attention_call;
      attention_call.heads = {heads, kv_heads, dim, dim, up(rope)};
      attention_call.places = {up(std::vector<int32_t>{at, at - 150}), up(std::vector<int32_t>{0, 1}), rows};
      const size_t cells = count(2 * kv_heads * context * dim);
      std::vector<uint16_t> cached(cells);
      const auto numbers = normals(cells, 10);
      std::transform(numbers.begin(), numbers.end(), cached.begin(), float_to_fp16);
      attention_call.cache = {CacheKind::kF16, up(cached), up(cached), nullptr, nullptr, context};
      const int64_t ld_query = input_stride(query), ld_inner = input_stride(inner);
      const auto h_before = normals(count(rows * hidden), 11);
      const DeviceMemory partial(attention_scratch(attention_call.heads, rows, 3));
      std::vector<std::vector<float>> results;
      for (const bool as_program : {false, true, true}) {
        for (const int splits : {1, 3}) {
          float* h = up(h_before);
          float* qkv = poisoned(count(rows * width));
          void* attended = zeros(count(rows * ld_query) * 2);
          void* activated = zeros(count(rows * ld_inner) * 2);
          Gemv projections;
          projections.rows = rows;
          projections.h = h;
          projections.norm = norm;
          Gemv mlp = projections;
          for (const Weight* w : {&q, &kv, &v}) {
            GemvJob& job = projections.jobs[projections.n_jobs++];
            job.weight = *w;
            job.y = qkv + (w == &q ? 0 : w == &kv ? query : query + kv_heads * dim);
            job.ldy = width;
          }
          mlp.n_jobs = 1;
          mlp.jobs[0].weight = gate;
          mlp.jobs[0].finish = parallel ? Finish::kGelu : Finish::kSwiGlu;
          if (!parallel) mlp.jobs[0].partner = upward;
          mlp.jobs[0].out = activated;
          mlp.jobs[0].ld_out = ld_inner;
          attention_call.qkv = qkv;
          attention_call.out = attended;
          attention_call.ld = ld_query;
          attention_call.rope = true;
          attention_call.splits = splits;
          attention_call.partial = partial.as<float>();
          const Gemv o_call = gemv_of(o, attended, ld_query, rows, 1, true, h, hidden),
                     down_call = gemv_of(down_weight, activated, ld_inner, rows, 1, true, h, hidden);
          constexpr int kLayers = 12;
          if (as_program) {
            StepProgram program;
            for (int layer = 0; layer < kLayers; ++layer) {
              program.add(projections);
              program.add(attention_call);
              if (parallel) program.add(mlp, true);
              program.add(o_call);
              if (!parallel) program.add(mlp);
              program.add(down_call);
            }
            run(program);
            const auto once = down<float>(h, count(rows * hidden));
            for (int again = 0; again < 20; ++again) {
              queue_->to_device(h, h_before.data(), h_before.size() * sizeof(float));
              program.run(*queue_, false);
              ASSERT_EQ(down<float>(h, count(rows * hidden)), once);
            }
          } else {
            for (int layer = 0; layer < kLayers; ++layer) {
              gemv(*queue_, projections, false);
              if (parallel) gemv(*queue_, mlp, false);
              attention(*queue_, attention_call, false);
              gemv(*queue_, o_call, false);
              if (!parallel) gemv(*queue_, mlp, false);
              gemv(*queue_, down_call, false);
            }
          }
          results.push_back(down<float>(h, count(rows * hidden)));
        }
      }
      for (size_t i = 2; i < results.size(); ++i) {
        double error = 0, size = 0;
        for (size_t j = 0; j < results[i].size(); ++j) {
          error += std::pow(double{results[i][j]} - double{results[i % 2][j]}, 2);
          size += std::pow(double{results[i % 2][j]}, 2);
        }
        EXPECT_LE(std::sqrt(error / size), 2e-3)
            << "parallel " << parallel << " rows " << rows << " result " << i;
      }
      EXPECT_EQ(results[2], results[4]);
      EXPECT_EQ(results[3], results[5]);
      forget();
    }
  }
}

TEST_F(CudaStep, LeavesToOthersWhatItDoesNotTake) {
  const Made dense_weight = dense(DType::kBF16, 16, 64, 1), few = packed({4, 32, false, 16, 64}, 1);
  const void* x = zeros(4096);
  float* y = poisoned(4096);
  EXPECT_FALSE(StepProgram::takes(gemv_of(dense_weight.weight, x, 64, 1, 1, false, y, 16)));
  EXPECT_TRUE(StepProgram::takes(gemv_of(few.weight, x, 64, 1, 1, false, y, 16)));
  EXPECT_FALSE(StepProgram::takes(gemv_of(few.weight, x, 64, 1, 2, false, y, 16)));
  EXPECT_FALSE(StepProgram::takes(gemv_of(few.weight, x, 64, 9, 1, false, y, 16)));
}

}  // namespace
}  // namespace nibble::cuda
