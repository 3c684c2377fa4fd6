// nibble bench MODEL [-p 512] [-n 128] [-b 1] [-r 5] [-o md|csv|json]
#include "base/progress.h"
#include "base/stopwatch.h"
#include "commands.h"
#include "interrupt.h"
#include "model/facts.h"
#include "open_model.h"
#include "report/format.h"
#include "report/text_table.h"
#include "study/measure.h"

namespace nibble::app {
namespace {

struct BenchArguments {
  std::string model, output = "md";
  BenchOptions bench;
};

std::string mb(uint64_t bytes) { return report::megabytes(static_cast<double>(bytes)); }

report::TextTable table_of(const BenchReport& report, const Model& model) {
  using report::Align;
  report::TextTable table;
  const ModelFacts facts = model_facts(model);
  for (const char* title : {"model", "test"}) table.heads.push_back({title, Align::kLeft});
  for (const char* title :
       {"bits/weight", "threads", "batch", "tokens/s", "± sd", "latency p50 ms", "p90", "p99", "weights MB",
        "cache MB", "workspace MB", "peak MB", "GPU MB", "of ceiling %"})
    table.heads.push_back({title, Align::kRight});
  for (const BenchTest& t : report.tests) {
    const std::optional<double>& ceiling = t.peak_fraction ? t.peak_fraction : t.bandwidth_fraction;
    table.rows.push_back({std::filesystem::path(model.name()).filename().string(), t.test,
                          report::fixed(facts.bits_per_weight, 2), std::to_string(report.threads),
                          std::to_string(t.batch), report::fixed(t.tokens_per_s, 1),
                          report::fixed(t.tokens_per_s_sd, 1), report::fixed(t.latency_ms.p50, 2),
                          report::fixed(t.latency_ms.p90, 2), report::fixed(t.latency_ms.p99, 2),
                          mb(t.memory.weights), mb(t.memory.kv_cache), mb(t.memory.workspace),
                          mb(t.memory.peak_rss), t.memory.peak_gpu > 0 ? mb(t.memory.peak_gpu) : "–",
                          ceiling ? report::percent(*ceiling) : "–"});
  }
  return table;
}

std::string to_csv(const report::TextTable& table) {
  std::string text;
  const auto line = [&](const auto& cells, const auto& text_of) {
    for (size_t i = 0; i < cells.size(); ++i) text += (i == 0 ? "" : ",") + text_of(cells[i]);
    text += "\n";
  };
  line(table.heads, [](const report::TableHead& head) { return head.title; });
  for (const auto& row : table.rows) {
    line(row, [](std::string cell) {
      if (cell.find_first_of(",\"\n") == std::string::npos) return cell;
      for (size_t at = 0; (at = cell.find('"', at)) != std::string::npos; at += 2) cell.insert(at, 1, '"');
      return "\"" + cell + "\"";
    });
  }
  return text;
}

int run(BenchArguments options, const GlobalOptions& global) {
  options.bench.precision = global.precision();
  options.bench.batch_tokens = default_batch_tokens(options.bench.precision.device);
  require_device(global);
  options.bench.validate();
  const InterruptGuard guard;
  const std::filesystem::path path = locate_model(options.model);
  const Stopwatch load;
  const auto model = std::make_shared<const Model>(open_checkpoint(path, global.gguf_dtype(), false));
  const double load_s = load.seconds();
  ThreadPool pool(global.thread_count(), global.pin);
  Progress progress(stderr, "bench", "repetitions");
  BenchReport report = run_bench(model, options.bench, pool, [&](size_t done, size_t total) {
    InterruptGuard::check();
    progress.update(done, total);
  });
  progress.finish();
  report.load_s = load_s;
  const OrderedJson json = to_json(report, *model, NIBBLE_VERSION);
  const report::TextTable table = table_of(report, *model);
  if (options.output != "md") {
    write_output(global, json, options.output == "json" ? json_text(json) : to_csv(table));
    return 0;
  }
  std::string text = report::to_markdown(table) + "\n" + report.device;
  text += fmt::format(", loaded in {:.0f} ms", load_s * 1000);
  const Ceilings& most = report.ceilings;
  if (options.bench.precision.device == Device::kCuda) {
    text += fmt::format("; a copy on the card reads and writes {:.0f} GB/s\n",
                        *report.ceilings.read_bytes_per_s / 1e9);
    write_output(global, json, text);
    return 0;
  }
  text += fmt::format("; ceilings here: {}, {:.0f} GOPS int8, {:.0f} GFLOPS {}\n",
                      most.read_bytes_per_s ? fmt::format("{:.1f} GB/s read", *most.read_bytes_per_s / 1e9)
                                            : "reading not measured (too little free memory)",
                      most.int8_ops_per_s / 1e9, most.dense_ops_per_s / 1e9, most.dense_type);
  write_output(global, json, text);
  return 0;
}

}  // namespace

Run cmd_bench(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<BenchArguments>();
  BenchOptions& bench = options->bench;
  verb.option("model", options->model, kModelHelp).required().type_name("MODEL");
  verb.option("-p,--prompt", bench.prompt, "tokens of the prompt test; 0: none").show_default();
  verb.option("-n,--generate", bench.generate, "tokens of the generation test; 0: none").show_default();
  verb.option("-b,--batch", bench.batches, "sequences at a time; a list runs the tests for each")
      .comma_list()
      .type_name("B,…")
      .show_default();
  verb.option("-r,--repetitions", bench.repetitions, "of each test, after a warm-up").show_default();
  verb.option("-o,--output", options->output, "md, csv or json").one_of({"md", "csv", "json"}).show_default();
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
