#include "report/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report/format.h"
#include "report/measures.h"

namespace nibble::report {
namespace {

// A part of a process's memory, before and after quantization, in bytes.
struct Part {
  const char* name;
  double before, after;
  const char* cause;  // why it may grow
  double growth() const { return after - before; }
};

std::array<Part, 5> parts_of(const MemoryBytes& before, const MemoryBytes& after) {
  const auto bytes = [](uint64_t n) { return static_cast<double>(n); };
  return {{
      {"weights", bytes(before.weights), bytes(after.weights),
       "weights are unpacked or held twice in memory"},
      {"kv_cache", bytes(before.kv_cache), bytes(after.kv_cache),
       "a larger batch or context than the baseline's"},
      {"workspace", bytes(before.workspace), bytes(after.workspace),
       "buffers for unpacked panels or quantized activations"},
      {"other", other_bytes(before), other_bytes(after),
       "memory outside the model: what loading left behind, the allocator, texts and libraries"},
      {"file", bytes(before.file), bytes(after.file), "the checkpoint itself is no smaller"},
  }};
}

std::string memory_figure(const std::array<Part, 5>& parts, double before, double after, const char** cause) {
  const auto grown = std::max_element(parts.begin(), parts.end(),
                                      [](const Part& a, const Part& b) { return a.growth() < b.growth(); });
  std::string figure = fmt::format("peak {} MB, baseline {} MB; ", megabytes(after), megabytes(before));
  if (grown->growth() <= 0) {
    *cause = "the measured parts did not grow: the peak may come from loading";
    return figure + "no measured part grew";
  }
  *cause = grown->cause;
  return figure + fmt::format("{} grew by {} MB ({} → {})", grown->name, megabytes(grown->growth()),
                              megabytes(grown->before), megabytes(grown->after));
}

}  // namespace

RuleResult memory_paradox(const StudyView& study) {
  RuleResult result;
  for_each_quantized(study, true,
                     [&](const ModelView& model, const TaskView* baseline, const VariantView& variant,
                         const TaskView& cell) {
                       if (!baseline || !baseline->memory || !cell.memory) return;
                       const MemoryBytes& before = *baseline->memory;
                       const MemoryBytes& after = *cell.memory;
                       const auto judge = [&](const char* kind, uint64_t peak_before, uint64_t peak_after) {
                         if (peak_before == 0 || peak_after == 0) return;
                         ++result.judged;
                         if (peak_after < peak_before) return;
                         Issue& issue = issue_at(result.issues, model.name);
                         const char* cause = "";
                         const std::string figure =
                             memory_figure(parts_of(before, after), static_cast<double>(peak_before),
                                           static_cast<double>(peak_after), &cause);
                         issue.evidence.push_back({cell_name(variant, cell), kind + figure});
                         if (issue.cause.empty())
                           issue.cause = cause;
                         else if (issue.cause.find(cause) == std::string::npos)
                           issue.cause += fmt::format("; {}", cause);
                       };
                       judge("", before.peak_rss, after.peak_rss);
                       judge("GPU: ", before.peak_gpu, after.peak_gpu);
                     });
  for (Issue& issue : result.issues) {
    issue.finding = fmt::format("peak memory at or above the baseline's in {}; {}: {}",
                                counted(issue.evidence.size(), "run"), issue.evidence.front().cell,
                                issue.evidence.front().figure);
    issue.threshold = "peak memory below the baseline's on the same task";
  }
  if (result.judged == 0)
    result.not_judged = {"no quantized cell has its peak memory stored beside its baseline's"};
  return result;
}

namespace {

void judge_bench(const ModelView& model, const VariantView& variant, RuleResult& result) {
  const VariantView* baseline = model.baseline();
  if (!baseline) return;
  for (const auto& [prefix, name] : {std::pair{"pp", "prefill"}, std::pair{"tg", "decode"}}) {
    const auto before = bench_rate(*baseline, prefix);
    const auto after = bench_rate(variant, prefix);
    if (!before || !after) continue;
    ++result.judged;
    // The spread of single repetitions: wider than the means' own error, so that a loss is one on any day.
    const double noise = 2 * std::hypot(before->sd, after->sd);
    if (after->mean >= before->mean - noise) continue;
    issue_at(result.issues, model.name)
        .evidence.push_back(
            {fmt::format("{}, bench", variant.label()),
             fmt::format("{} {} ± {} tokens/s, baseline {} ± {}", name, three_digits(after->mean),
                         three_digits(after->sd), three_digits(before->mean), three_digits(before->sd))});
  }
}

// One run has no spread, so only a clear loss counts.
constexpr double kClearLoss = 0.10;

void judge_tasks(const ModelView& model, const VariantView& variant, RuleResult& result) {
  const VariantView* baseline = model.baseline();
  for (const TaskView& cell : variant.tasks) {
    const TaskView* reference = baseline ? baseline->find(cell.task) : nullptr;
    if (!cell.result || !reference || !reference->result) continue;
    const auto judge = [&](const char* name, double before, double after) {
      if (!(before > 0 && after > 0)) return;
      ++result.judged;
      if (after >= before * (1 - kClearLoss)) return;
      issue_at(result.issues, model.name)
          .evidence.push_back(
              {cell_name(variant, cell), fmt::format("{} {} tokens/s in one run, baseline {}", name,
                                                     three_digits(after), three_digits(before))});
    };
    judge("prefill", reference->result->prompt_tokens_per_s, cell.result->prompt_tokens_per_s);
    judge("decode", reference->result->output_tokens_per_s, cell.result->output_tokens_per_s);
  }
}

}  // namespace

RuleResult slower_than_baseline(const StudyView& study) {
  RuleResult result;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      if (variant.variant.is_baseline()) continue;
      judge_bench(model, variant, result);
      judge_tasks(model, variant, result);
    }
  }
  for (Issue& issue : result.issues) {
    issue.finding = fmt::format("throughput below the baseline's in {}; {}: {}",
                                counted(issue.evidence.size(), "measurement"), issue.evidence.front().cell,
                                issue.evidence.front().figure);
    issue.threshold =
        "bench: baseline − 2 standard deviations of the difference of two repetitions; tasks, run once: 90 % "
        "of the baseline";
    issue.cause =
        "unpacking 4-bit weights costs more than the smaller reads save, as in prefill or on small models";
  }
  if (result.judged == 0)
    result.not_judged = {"no throughput stored for both a quantized variant and its baseline"};
  return result;
}

RuleResult impossible_size(const StudyView& study) {
  RuleResult result;
  for (const ModelView& model : study.models) {
    for (const VariantView& variant : model.variants) {
      if (variant.variant.is_baseline() || !variant.facts) continue;
      const VariantFacts& facts = *variant.facts;
      if (facts.file_bytes == 0 || facts.parameters == 0) continue;
      ++result.judged;
      const double real = 8.0 * static_cast<double>(facts.file_bytes) / static_cast<double>(facts.parameters);
      const int claimed = variant.variant.bits;
      const bool bits_too_few = facts.bits_per_weight > 0 && facts.bits_per_weight < claimed;
      if (real >= claimed && !bits_too_few) continue;
      Issue& issue = issue_at(result.issues, model.name);
      issue.evidence.push_back(
          {variant.label(),
           fmt::format("{} bits per weight in the file, {} stated, {} bits claimed ({}× from fp32, {}× "
                       "is the most)",
                       fixed(real, 2), fixed(facts.bits_per_weight, 2), claimed, fixed(32 / real, 2),
                       fixed(32.0 / claimed, 2))});
    }
  }
  for (Issue& issue : result.issues) {
    issue.finding = fmt::format("{}: {}", issue.evidence.front().cell, issue.evidence.front().figure);
    issue.threshold = "bits per weight at least the bits claimed, before scales, head and embeddings";
    issue.cause = "parts of the model are not in the file, or the parameters are counted twice";
  }
  if (result.judged == 0)
    result.not_judged = {"no quantized variant has its file size and parameter count stored"};
  return result;
}

}  // namespace nibble::report
