// What is made in blocks for where it is used against the same stages one after the other, bit for bit.
#include "model/linears.h"

#include <gtest/gtest.h>

#include <deque>
#include <numeric>
#include <vector>

#include "io/test_files.h"
#include "kernels/cpu/played_tiles_avx2.h"
#include "model/small_checkpoint.h"
#include "random_matrices.h"

namespace nibble {
namespace {

constexpr int kMostRows = 80, kMostFound = 3;

// A model of one block. Its linears are as in the checkpoint, bf16, or packed.
struct OneBlock {
  explicit OneBlock(const SmallModel& shape) {
    write_weights(dir / "model.safetensors", make_weights(shape), DType::kBF16);
    write_text(dir / "config.json", make_config(shape).dump());
    model = std::make_unique<Model>(open_checkpoint(dir.path()));
  }
  void pack_it(Linear& l, int bits, int group, bool in_order = true) {
    l.packed = packed.emplace_back(pack(random_quantized(bits, group, false, l.n, l.k, packed.size())))
                   .view({bits, group, false, l.n, l.k});
    if (in_order) return;
    order.resize(static_cast<size_t>(l.k));
    std::iota(order.rbegin(), order.rend(), 0);
    l.order = order.data();
  }
  Block& block() { return model->blocks[0]; }

  TemporaryDirectory dir;
  std::unique_ptr<Model> model;
  std::deque<PackedBuffers> packed;
  std::vector<int32_t> order;
};

class LinearsInBlocks : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    table_ = table_with_tiles(GetParam());
    if (!table_) GTEST_SKIP() << "this processor has no " << GetParam();
  }

  void check(OneBlock& of, const std::string& what) {
    const Block& b = of.block();
    const int64_t hidden = b.down.n, inner = b.up.n;
    const auto buffer = [](int64_t width) {
      return std::vector<float>(static_cast<size_t>(kMostRows * width));
    };
    const auto x = normals(static_cast<size_t>(kMostRows * hidden), 1),
               before = normals(static_cast<size_t>(kMostRows * hidden), 2);
    ThreadPool pool(3);
    Linears linears(*of.model, {}, kMostRows, kMostFound, false, *table_, pool);
    for (const int64_t rows : {1, 31, 35, 47, 80}) {
      for (const int found : {0, kMostFound}) {
        linears.expect(found);
        auto gate = buffer(inner), up = buffer(inner), y = buffer(hidden);
        auto expected = before, sum = before;
        const auto add = [&] { table_->add(expected.data(), y.data(), rows * hidden); };
        LinearCall call{&b.o, y.data()};
        linears.run(std::span(&call, 1), x.data(), rows);
        add();
        linears.run_inner(b, x.data(), rows, gate.data(), up.data());
        call = {&b.down, y.data()};
        linears.run(std::span(&call, 1), up.data(), rows);
        add();
        linears.run_added(b.o, x.data(), rows, y.data(), sum.data());
        linears.run_mlp(b, x.data(), rows, gate.data(), up.data(), y.data(), sum.data());
        EXPECT_EQ(sum, expected) << what << ", " << rows << " rows, " << found << " found";
        if (found > 0) continue;
        auto last = before;
        const int64_t at = (rows - 1) * hidden;
        linears.run_added(b.o, x.data() + at, 1, y.data(), last.data() + at);
        linears.run_mlp(b, x.data() + at, 1, gate.data(), up.data(), y.data(), last.data() + at);
        EXPECT_TRUE(std::equal(last.begin() + at, last.begin() + at + hidden, sum.begin() + at))
            << what << ", the last of " << rows << " rows alone";
      }
    }
  }
  const KernelTable* table_ = nullptr;
};

// Widths that 16 and 32 do not divide, of several blocks and of less than one.
const SmallModel kShapes[] = {{.hidden = 64, .layers = 1, .inner = 96},
                              {.hidden = 40, .layers = 1, .heads = 2, .head_dim = 20, .inner = 72},
                              {.hidden = 64, .layers = 1, .inner = 344, .all_biases = true},
                              {.type = "phi", .hidden = 64, .layers = 1, .kv_heads = 4, .inner = 208}};

TEST_P(LinearsInBlocks, OfBf16) {
  for (const SmallModel& shape : kShapes) {
    OneBlock one(shape);
    check(one, fmt::format("{} wide", shape.inner));
  }
}

TEST_P(LinearsInBlocks, OfPackedWeights) {
  for (const SmallModel& shape : kShapes) {
    for (const int group : {16, 32}) {
      OneBlock one(shape);
      for (Linear* l : one.block().linears())
        if (l->present()) one.pack_it(*l, 4, group);
      check(one, fmt::format("{} wide, g{}", shape.inner, group));
    }
  }
}

TEST_P(LinearsInBlocks, OfUnlikeOnes) {
  for (const bool down_packed : {false, true}) {
    OneBlock one(kShapes[0]);
    one.pack_it(one.block().up, 4, 16);
    if (down_packed) one.pack_it(one.block().down, 8, 32);
    check(one, "gate of bf16");
    one.pack_it(one.block().gate, 3, 16);
    check(one, "up and gate packed");
    one.pack_it(one.block().gate, 4, 32);
    check(one, "unlike groups");
  }
  OneBlock one(kShapes[0]);
  for (Linear* l : one.block().linears()) one.pack_it(*l, 4, 32);
  one.pack_it(one.block().down, 4, 32, false);
  check(one, "down in an order of its own");
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearsInBlocks, ::testing::Values("avx2", "avx512", "amx", "played"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace nibble
