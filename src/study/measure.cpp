#include "study/measure.h"

#include <algorithm>
#include <cmath>

#include "base/aligned_buffer.h"
#include "base/memory_usage.h"
#include "base/random.h"
#include "base/stopwatch.h"
#include "eval/statistics.h"
#include "model/cuda_device.h"
#include "model/facts.h"
#include "study/ceilings.h"

namespace nibble {
namespace {

// What a test runs on: a session, and room for a row of logits.
struct Bench {
  Bench(std::shared_ptr<const Model> model, const BenchOptions& options, int batch_size, int context,
        int batch_tokens, ThreadPool& pool)
      : session(open_forward_pass(model,
                                  {.slots = batch_size,
                                   .context = context,
                                   .batch_tokens = batch_tokens,
                                   .precision = options.precision},
                                  pool)),
        logits(static_cast<size_t>(model->config.vocab_size)),
        found(static_cast<size_t>(batch_size) * static_cast<size_t>(options.generate)),
        step_ms(static_cast<size_t>(options.generate)),
        random(1) {}

  int sequences() const { return session->options().slots; }
  int32_t token() {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(session->model().config.vocab_size)));
  }
  uint64_t workspace_bytes() const { return session->workspace_bytes() + logits.bytes(); }

  std::unique_ptr<ForwardPass> session;
  AlignedBuffer<float> logits;
  std::vector<int32_t> found;
  std::vector<double> step_ms;
  Random random;
  Batch batch;
};

bool on_gpu(const BenchOptions& options) { return options.precision.device == Device::kCuda; }

// All prompts, each in pieces; logits of the last token only, as a server computes them.
void run_prompts(Bench& bench, const BenchOptions& options) {
  std::vector<int32_t> ids(static_cast<size_t>(std::min(options.prompt, options.batch_tokens)));
  for (int slot = 0; slot < bench.sequences(); ++slot) {
    for (int start = 0; start < options.prompt;) {
      const int count = std::min(options.prompt - start, static_cast<int>(ids.size()));
      for (int32_t& id : ids) id = bench.token();
      bench.batch.clear();
      bench.batch.add(slot, start, std::span(ids).first(static_cast<size_t>(count)));
      bench.session->forward(bench.batch);
      start += count;
      if (start == options.prompt)
        bench.session->row_logits(static_cast<size_t>(count) - 1, 1, bench.logits.data());
    }
  }
}

// `steps` tokens of every sequence from an empty context, each the likeliest after the last.
void run_steps(Bench& bench, int steps) {
  std::vector<Continuation> sequences;
  for (int slot = 0; slot < bench.sequences(); ++slot) sequences.push_back({slot, 0, bench.token()});
  bench.session->greedy(sequences, steps, bench.found.data(), bench.step_ms.data());
}

// Bytes that one decoding step reads: every weight but the embedding's rows, and half of the cache on
// average.
double bytes_a_step(const Model& model, const ForwardPass& session) {
  const ModelFacts facts = model_facts(model);
  const uint64_t embedding = model.config.tied_head ? 0 : facts.embedding_bytes;
  return static_cast<double>(facts.weight_bytes - embedding) +
         0.5 * static_cast<double>(session.cache_bytes());
}

void add_statistics(BenchTest& test, const std::vector<double>& rates, const std::vector<double>& latencies) {
  double sum = 0, squares = 0;
  for (const double rate : rates) sum += rate;
  test.tokens_per_s = sum / static_cast<double>(rates.size());
  for (const double rate : rates) squares += (rate - test.tokens_per_s) * (rate - test.tokens_per_s);
  test.tokens_per_s_sd = rates.size() > 1 ? std::sqrt(squares / static_cast<double>(rates.size() - 1)) : 0;
  test.latency_ms = percentile_summary(latencies);
}

}  // namespace

void BenchOptions::validate() const {
  if (prompt < 0 || generate < 0 || (prompt == 0 && generate == 0))
    throw UsageError("nothing to measure: -p and -n count tokens, and one of them must be above 0");
  if (batches.empty()) throw UsageError("no batch size was given");
  for (const int batch : batches)
    if (batch < 1 || batch > 1024) throw UsageError(fmt::format("batch {}: from 1 to 1024", batch));
  if (repetitions < 1) throw UsageError(fmt::format("repetitions {}: at least 1", repetitions));
  if (batch_tokens < 1) throw UsageError(fmt::format("a batch of {} tokens: at least 1", batch_tokens));
}

namespace {

BenchTest run_prompt_test(Bench& bench, const BenchOptions& options, const std::function<void()>& advance) {
  BenchTest test;
  test.test = fmt::format("pp{}", options.prompt);
  std::vector<double> rates, latencies;
  run_prompts(bench, options);  // warm-up
  for (int r = 0; r < options.repetitions; ++r) {
    const Stopwatch watch;
    run_prompts(bench, options);
    const double seconds = watch.seconds();
    rates.push_back(options.prompt * bench.sequences() / seconds);
    latencies.push_back(seconds * 1000 / bench.sequences());
    advance();
  }
  add_statistics(test, rates, latencies);
  return test;
}

BenchTest run_generation_test(Bench& bench, const BenchOptions& options,
                              const std::function<void()>& advance) {
  BenchTest test;
  test.test = fmt::format("tg{}", options.generate);
  std::vector<double> rates, latencies;
  run_steps(bench, on_gpu(options) ? options.generate : std::min(8, options.generate));  // warm-up
  for (int r = 0; r < options.repetitions; ++r) {
    const Stopwatch watch;
    run_steps(bench, options.generate);
    const double seconds = watch.seconds();
    latencies.insert(latencies.end(), bench.step_ms.begin(), bench.step_ms.end());
    rates.push_back(options.generate * bench.sequences() / seconds);
    advance();
  }
  add_statistics(test, rates, latencies);
  return test;
}

// Seconds that the products of a prompt of so many tokens take at the processor's peak.
double seconds_at_peak(const Model& model, const BenchOptions& options, const Ceilings& ceilings) {
  const auto seconds = [&](const Linear& l, int tokens) {
    const bool int8 = l.packed && options.precision.int8 && !kernels().packed_bf16;
    return 2.0 * static_cast<double>(l.n) * static_cast<double>(l.k) * tokens /
           (int8 ? ceilings.int8_ops_per_s : ceilings.dense_ops_per_s);
  };
  double total = seconds(model.head, 1);
  for (const Linear* l : model.linears()) total += seconds(*l, options.prompt);
  return total;
}

}  // namespace

BenchReport run_bench(std::shared_ptr<const Model> model, const BenchOptions& options, ThreadPool& pool,
                      const std::function<void(size_t, size_t)>& progress) {
  options.validate();
  const int longest = std::max(options.prompt, options.generate);
  if (longest > model->config.max_context)
    throw UsageError(fmt::format("{} tokens: the model's context is {}", longest, model->config.max_context));
  BenchReport report;
  const bool gpu = on_gpu(options);
  report.device = device_name(options.precision.device);
  report.threads = pool.size();
  report.peak_rss_load = peak_rss_bytes();
  uint64_t peak = report.peak_rss_load;
  const size_t total = static_cast<size_t>(options.repetitions) * options.batches.size() *
                       ((options.prompt > 0) + (options.generate > 0));
  size_t done = 0;
  const auto advance = [&] {
    ++done;
    if (progress) progress(done, total);
  };
  std::vector<double> step_bytes;  // of each test, 0 for prompts
  const auto run = [&](int batch, bool prompts) {
    const bool own_phase = reset_peak_rss();
    const int context = prompts ? options.prompt : options.generate;
    Bench bench(model, options, batch, context,
                prompts ? std::min(options.prompt, options.batch_tokens) : batch, pool);
    if (gpu && report.tests.empty()) report.gpu_load = gpu_bytes_in_use(options.precision.device);
    BenchTest test =
        prompts ? run_prompt_test(bench, options, advance) : run_generation_test(bench, options, advance);
    const uint64_t now = peak_rss_bytes();
    test.peak_rss_phase = own_phase ? now : 0;
    peak = std::max(peak, now);
    test.batch = batch;
    test.memory = {.file = model->checkpoint().file_bytes,
                   .weights = model->weight_bytes(),
                   .kv_cache = bench.session->cache_bytes(),
                   .workspace = bench.workspace_bytes(),
                   .peak_rss = peak,
                   .peak_gpu = gpu_bytes_in_use(options.precision.device)};
    step_bytes.push_back(prompts ? 0 : bytes_a_step(*model, *bench.session));
    report.tests.push_back(std::move(test));
  };
  for (const bool prompts : {true, false}) {
    if ((prompts ? options.prompt : options.generate) == 0) continue;
    for (const int batch : options.batches) run(batch, prompts);
  }

  // Last: its buffer must not count as the model's memory.
  if (gpu) {
    report.ceilings.read_bytes_per_s = measure_gpu_copy();
  } else {
    report.ceilings = measure_ceilings(pool);
  }
  for (size_t i = 0; i < report.tests.size(); ++i) {
    BenchTest& test = report.tests[i];
    if (gpu && test.test.starts_with("pp")) continue;
    if (test.test.starts_with("pp")) {
      test.peak_fraction =
          seconds_at_peak(*model, options, report.ceilings) * test.tokens_per_s / options.prompt;
    } else if (report.ceilings.read_bytes_per_s &&
               (gpu || step_bytes[i] > 2 * static_cast<double>(last_level_cache_bytes()))) {
      test.bandwidth_fraction =
          step_bytes[i] * test.tokens_per_s / test.batch / *report.ceilings.read_bytes_per_s;
    }
  }
  return report;
}

OrderedJson to_json(const BenchReport& report, const Model& model, const std::string& version) {
  const ModelFacts facts = model_facts(model);
  OrderedJson array = OrderedJson::array();
  for (const BenchTest& test : report.tests) {
    OrderedJson json;
    json["model"] = model.name();
    json["test"] = test.test;
    json["batch"] = test.batch;
    json["tokens_per_s"] = {{"mean", test.tokens_per_s}, {"sd", test.tokens_per_s_sd}};
    json["latency_ms"] = to_json(test.latency_ms);
    json["latency_of"] = test.test.starts_with("pp") ? "prompt" : "token";
    json["memory_bytes"] = to_json(test.memory);
    json["load_s"] = report.load_s;
    if (report.gpu_load > 0) json["gpu_load_bytes"] = report.gpu_load;
    json["peak_rss_bytes"] = {{"load", report.peak_rss_load}, {"test", nullptr}};
    if (test.peak_rss_phase > 0) json["peak_rss_bytes"]["test"] = test.peak_rss_phase;
    json["bandwidth_fraction"] = nullptr;
    if (test.bandwidth_fraction) json["bandwidth_fraction"] = *test.bandwidth_fraction;
    json["peak_fraction"] = nullptr;
    if (test.peak_fraction) json["peak_fraction"] = *test.peak_fraction;
    json["bandwidth_bytes_per_s"] = nullptr;
    if (report.ceilings.read_bytes_per_s) json["bandwidth_bytes_per_s"] = *report.ceilings.read_bytes_per_s;
    json["int8_ops_per_s"] = report.ceilings.int8_ops_per_s;
    json["dense_ops_per_s"] = report.ceilings.dense_ops_per_s;
    json["threads"] = report.threads;
    json["device"] = report.device;
    json["parameters"] = facts.parameters;
    json["bits_per_weight"] = facts.bits_per_weight;
    json["version"] = version;
    array.push_back(std::move(json));
  }
  return array;
}

}  // namespace nibble
