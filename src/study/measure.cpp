#include "study/measure.h"

#include <algorithm>
#include <cmath>

#include "base/aligned_buffer.h"
#include "base/memory_usage.h"
#include "base/random.h"
#include "eval/statistics.h"
#include "eval/stopwatch.h"
#include "model/facts.h"
#include "study/ceilings.h"

namespace nibble {
namespace {

// What a test runs on: a session, and room for one row of logits a sequence.
struct Bench {
  Bench(std::shared_ptr<const Model> model, const BenchOptions& options, int batch_size, int context,
        int batch_tokens, ThreadPool& pool)
      : session(model,
                {.slots = batch_size,
                 .context = context,
                 .batch_tokens = batch_tokens,
                 .precision = options.precision},
                pool),
        logits(static_cast<size_t>(batch_size) * static_cast<size_t>(model->config.vocab_size)),
        random(1) {}

  int sequences() const { return session.options().slots; }
  int32_t token() {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(session.model().config.vocab_size)));
  }

  // Logits after the last `rows` rows of `count` that were run.
  void compute_logits(int64_t count, int64_t rows) {
    session.logits(session.hidden() + (count - rows) * session.model().config.hidden_size, rows,
                   logits.data());
  }
  uint64_t workspace_bytes() const { return session.workspace_bytes() + logits.bytes(); }

  Session session;
  AlignedBuffer<float> logits;
  Random random;
  Batch batch;
};

// All prompts, each in pieces; logits of the last token only, as a server computes them.
void run_prompts(Bench& bench, const BenchOptions& options) {
  std::vector<int32_t> ids(static_cast<size_t>(std::min(options.prompt, options.batch_tokens)));
  for (int slot = 0; slot < bench.sequences(); ++slot) {
    for (int start = 0; start < options.prompt;) {
      const int count = std::min(options.prompt - start, static_cast<int>(ids.size()));
      for (int32_t& id : ids) id = bench.token();
      bench.batch.clear();
      bench.batch.add(slot, start, std::span(ids).first(static_cast<size_t>(count)));
      bench.session.forward(bench.batch);
      start += count;
      if (start == options.prompt) bench.compute_logits(count, 1);
    }
  }
}

// One token of every sequence at `position`.
void run_step(Bench& bench, int position) {
  bench.batch.clear();
  for (int slot = 0; slot < bench.sequences(); ++slot) {
    const int32_t token = bench.token();
    bench.batch.add(slot, position, std::span(&token, 1));
  }
  bench.session.forward(bench.batch);
  bench.compute_logits(bench.sequences(), bench.sequences());
}

// Bytes that one decoding step reads: every weight but the embedding's rows, and half of the cache on
// average.
double bytes_a_step(const Model& model, const Session& session) {
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
  for (int i = 0; i < std::min(8, options.generate); ++i) run_step(bench, i);  // warm-up
  for (int r = 0; r < options.repetitions; ++r) {
    const Stopwatch watch;
    double before = 0;
    for (int i = 0; i < options.generate; ++i) {
      run_step(bench, i);
      const double now = watch.seconds();
      latencies.push_back((now - before) * 1000);
      before = now;
    }
    rates.push_back(options.generate * bench.sequences() / before);
    advance();
  }
  add_statistics(test, rates, latencies);
  return test;
}

// Seconds that the products of a prompt of so many tokens take at the processor's peak.
double seconds_at_peak(const Model& model, const BenchOptions& options, const Ceilings& ceilings) {
  const auto seconds = [&](const Linear& l, int tokens) {
    const bool int8 = l.packed && options.precision.int8;
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
  report.device = fmt::format("cpu/{}", kernels().name);
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
    BenchTest test =
        prompts ? run_prompt_test(bench, options, advance) : run_generation_test(bench, options, advance);
    const uint64_t now = peak_rss_bytes();
    test.peak_rss_phase = own_phase ? now : 0;
    peak = std::max(peak, now);
    test.batch = batch;
    test.memory = {.file = model->checkpoint().file_bytes,
                   .weights = model->weight_bytes(),
                   .kv_cache = bench.session.cache_bytes(),
                   .workspace = bench.workspace_bytes(),
                   .peak_rss = peak};
    step_bytes.push_back(prompts ? 0 : bytes_a_step(*model, bench.session));
    report.tests.push_back(std::move(test));
  };
  for (const bool prompts : {true, false}) {
    if ((prompts ? options.prompt : options.generate) == 0) continue;
    for (const int batch : options.batches) run(batch, prompts);
  }

  // Last: its buffer must not count as the model's memory.
  report.ceilings = measure_ceilings(pool);
  for (size_t i = 0; i < report.tests.size(); ++i) {
    BenchTest& test = report.tests[i];
    if (test.test.starts_with("pp")) {
      test.peak_fraction =
          seconds_at_peak(*model, options, report.ceilings) * test.tokens_per_s / options.prompt;
    } else if (report.ceilings.read_bytes_per_s &&
               step_bytes[i] > 2 * static_cast<double>(last_level_cache_bytes())) {
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
