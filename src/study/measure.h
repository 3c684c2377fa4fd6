// Speed and memory as users of llama-bench know them (`nibble bench`).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/thread_pool.h"
#include "eval/result.h"
#include "model/forward_pass.h"
#include "study/ceilings.h"

namespace nibble {

struct BenchOptions {
  int prompt = 512;    // tokens of the prompt test (ppN); 0: no such test
  int generate = 128;  // tokens of the generation test (tgN), from an empty context; 0: no such test
  std::vector<int> batches = {1};  // sequences at a time, each with tests of its own
  int repetitions = 5;
  int batch_tokens = 256;  // most tokens of one forward pass
  Precision precision = {};
  void validate() const;  // throws UsageError
};

struct BenchTest {
  std::string test;  // "pp512", "tg128"
  int batch = 1;
  double tokens_per_s = 0, tokens_per_s_sd = 0;  // over the repetitions; all sequences together
  Percentiles latency_ms;                        // pp: of a prompt; tg: of a token, the whole batch's step
  MemoryBytes memory;           // peak_rss: of this process from its start to the end of this test
  uint64_t peak_rss_phase = 0;  // of this test alone; 0 where the kernel does not let one reset it
  // tg: bytes of weights and cache that a step reads, times steps a second, over the measured read
  // bandwidth; on a GPU over what a copy on the card reads and writes. None for pp, and where the weights fit
  // in the last-level cache or nothing was measured.
  std::optional<double> bandwidth_fraction;
  // pp: the time that the linears' products take at the processor's peak, over the time measured. None on a
  // GPU.
  std::optional<double> peak_fraction;
};

struct BenchReport {
  std::vector<BenchTest> tests;
  double load_s = 0;           // opening, checking and mapping the checkpoint; without the tokenizer
  uint64_t peak_rss_load = 0;  // from the start of the process until the model was loaded
  Ceilings ceilings;
  uint64_t gpu_load =
      0;               // GPU memory of this process once the weights are there and before any test; 0: no GPU
  std::string device;  // "cpu/avx512"
  int threads = 1;
};

// Each test on a session of its own, after a warm-up. Tokens are seeded and arbitrary. `progress` is called
// with (done, total) between repetitions; it may throw to cancel.
BenchReport run_bench(std::shared_ptr<const Model> model, const BenchOptions& options, ThreadPool& pool,
                      const std::function<void(size_t, size_t)>& progress);

// The array of `bench -o json`.
OrderedJson to_json(const BenchReport& report, const Model& model, const std::string& version);

}  // namespace nibble
