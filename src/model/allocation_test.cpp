// A forward pass allocates nothing once it has run. Counts what operator new is asked for in this program.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "model/session.h"
#include "test_data.h"

namespace {
std::atomic<int64_t> g_allocations{0};
}  // namespace

void* operator new(size_t size) {
  ++g_allocations;
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace nibble {
namespace {

TEST(Allocation, ForwardAllocatesNothingAfterWarmUp) {
  for (const char* name : {"llama-mini", "qwen2-mini", "phi-mini"}) {
    const auto model = load_model(testing::mini_dir() / "models" / name);
    ThreadPool pool(2);
    Session session(model, {.slots = 2, .context = 64, .batch_tokens = 40}, pool);
    std::vector<float> logits(static_cast<size_t>(model->config.vocab_size) * 2);
    std::vector<int32_t> prompt(20, 7);
    Batch prefill, decode;
    for (const int slot : {0, 1}) {
      prefill.add(slot, 0, prompt);
      decode.add(slot, 20, std::span(prompt).first(1));
    }
    const auto pass = [&] {
      for (const Batch* batch : {&prefill, &decode}) {
        session.forward(*batch);
        session.logits(session.hidden(), 2, logits.data());
      }
    };
    pass();
    const int64_t before = g_allocations;
    pass();
    EXPECT_EQ(g_allocations, before) << name;
  }
}

}  // namespace
}  // namespace nibble
