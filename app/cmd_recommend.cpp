// nibble recommend DIR [--max-memory 600MB] [--min-accuracy-kept 98%] …
#include <optional>

#include "base/error.h"
#include "commands.h"
#include "report/recommend.h"

namespace nibble::app {
namespace {

constexpr int kNoneFits = 3;

struct RecommendArguments {
  std::string dir;
  std::vector<std::string> tasks, models;
  std::optional<std::string> max_memory, max_size, min_throughput, max_latency, min_accuracy,
      min_accuracy_kept, max_perplexity_ratio, bandwidth, memory, prefer, tolerance;
};

report::Specification specification(const RecommendArguments& o) {
  report::Specification spec;
  spec.tasks = o.tasks;
  spec.models = o.models;
  const auto read = [](const char* name, const std::optional<std::string>& text, auto parse, auto& value) {
    if (text) value = parse(name, *text);
  };
  read("--max-memory", o.max_memory, report::parse_bytes, spec.max_memory);
  read("--max-size", o.max_size, report::parse_bytes, spec.max_size);
  read("--min-throughput", o.min_throughput, report::parse_number, spec.min_throughput);
  read("--max-latency", o.max_latency, report::parse_milliseconds, spec.max_latency);
  read("--min-accuracy", o.min_accuracy, report::parse_share, spec.min_accuracy);
  read("--min-accuracy-kept", o.min_accuracy_kept, report::parse_share, spec.min_accuracy_kept);
  read("--max-perplexity-ratio", o.max_perplexity_ratio, report::parse_number, spec.max_perplexity_ratio);
  read("--bandwidth", o.bandwidth, report::parse_bandwidth, spec.bandwidth);
  read("--memory", o.memory, report::parse_bytes, spec.memory);
  read("--prefer", o.prefer, report::parse_prefer, spec.prefer);
  read("--tolerance", o.tolerance, report::parse_share, spec.tolerance);
  return spec;
}

int run(const RecommendArguments& options, const GlobalOptions& global) {
  const report::Specification spec = specification(options);
  const report::StudyView study =
      report::load_study(Store::open(std::filesystem::path(options.dir) / "results.db", true));
  const report::Recommendation recommendation =
      report::recommend(study, report::find_critical_issues(study), spec);
  write_output(global, report::to_json(recommendation), report::render_recommendation(recommendation));
  return recommendation.choice ? 0 : kNoneFits;
}

}  // namespace

Run cmd_recommend(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<RecommendArguments>();
  verb.option("dir", options->dir, "what nibble study --out named").required().type_name("DIR");
  const auto limit = [&](const char* name, std::optional<std::string>& value, const char* type,
                         const char* help) { verb.option(name, value, help).type_name(type); };
  verb.option("--task", options->tasks, "what it is for; default: every task of the study")
      .comma_list()
      .type_name("A,B,…");
  verb.option("--model", options->models, "which models may be chosen; default: all of the study")
      .comma_list()
      .type_name("A,B,…");
  limit("--max-memory", options->max_memory, "600MB", "peak memory of the process");
  limit("--max-size", options->max_size, "100MB", "the model's files");
  limit("--min-throughput", options->min_throughput, "20", "tokens generated per second");
  limit("--max-latency", options->max_latency, "200ms", "95 % of the responses take no longer");
  limit("--min-accuracy", options->min_accuracy, "60%", "right answers on each task");
  limit("--min-accuracy-kept", options->min_accuracy_kept, "98%", "of the baseline's accuracy, on each task");
  limit("--max-perplexity-ratio", options->max_perplexity_ratio, "1.05", "to the baseline, on each text");
  limit("--prefer", options->prefer, "size|memory|speed", "what decides between equals; default: size");
  limit("--tolerance", options->tolerance, "1%",
        "a measured loss up to this does not matter; the two limits of loss above go before it");
  limit("--bandwidth", options->bandwidth, "50GB/s", "another machine's: predicts its decode speed");
  limit("--memory", options->memory, "4GB", "another machine's: what must fit into it");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
