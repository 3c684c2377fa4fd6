#include "report/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "eval/paired.h"
#include "report/format.h"

namespace nibble::report {
namespace {

constexpr uint64_t kBootstrapSeed = 0;

// Scores of both sides in the order of the first's rows.
struct Paired {
  std::vector<double> first, second, tokens;
  std::vector<std::string> clusters;
};

// Why two results are not of one measurement; empty when they are.
std::string different_setting(const TaskResult& a, const TaskResult& b) {
  if (a.task_version != b.task_version)
    return fmt::format("task version {} and {}", a.task_version, b.task_version);
  if (a.split != b.split) return fmt::format("split {} and {}", a.split, b.split);
  if (a.data_sha256 != b.data_sha256) return "the data files differ (SHA-256)";
  if (a.shots != b.shots) return fmt::format("{} shots and {}", a.shots, b.shots);
  if (a.seed != b.seed) return fmt::format("seed {} and {}", a.seed, b.seed);
  if (a.primary != b.primary) return fmt::format("metric {} and {}", a.primary, b.primary);
  return "";
}

// Fills `paired`, or says why the rows do not pair.
std::string pair_rows(const std::vector<Row>& a, const std::vector<Row>& b, bool with_tokens,
                      Paired& paired) {
  if (a.empty() || b.empty()) return "no rows stored";
  if (a.size() != b.size()) return fmt::format("{} rows and {}", a.size(), b.size());
  std::unordered_map<std::string_view, const Row*> partners;
  for (const Row& row : b) {
    if (!partners.emplace(row.key, &row).second) return fmt::format("row '{}' is stored twice", row.key);
  }
  for (const Row& row : a) {
    const auto found = partners.find(row.key);
    if (found == partners.end()) return fmt::format("row '{}' has no partner", row.key);
    const Row& partner = *found->second;
    partners.erase(found);
    if (row.input_hash != partner.input_hash)
      return fmt::format("row '{}' has another prompt or answer", row.key);
    if (with_tokens && row.tokens != partner.tokens)
      return fmt::format("row '{}' has another number of tokens", row.key);
    if (!std::isfinite(row.score) || !std::isfinite(partner.score)) {
      return fmt::format("row '{}' has a score that is not a finite number", row.key);
    }
    paired.first.push_back(row.score);
    paired.second.push_back(partner.score);
    paired.tokens.push_back(row.tokens);
    paired.clusters.push_back(row.cluster);
  }
  return "";
}

Verdict verdict_of(double low, double high, bool higher_is_better) {
  if (!(low > 0 || high < 0)) return Verdict::kNone;
  return (low > 0) == higher_is_better ? Verdict::kBetter : Verdict::kWorse;
}

// False where McNemar's exact test of independent rows rules it out; then the flips are counted.
bool may_be_below(double alpha, const Paired& paired, Comparison& c) {
  if (alpha > 1 || count_clusters(paired.clusters) != paired.first.size()) return true;
  int lost = 0, won = 0;
  for (size_t i = 0; i < paired.first.size(); ++i) {
    const double a = paired.first[i], b = paired.second[i];
    if ((a != 0 && a != 1) || (b != 0 && b != 1)) return true;
    lost += a > b;
    won += b > a;
  }
  if (mcnemar_exact(lost, won) < alpha) return true;
  c.right_to_wrong = lost;
  c.wrong_to_right = won;
  c.difference = static_cast<double>(won - lost) / static_cast<double>(paired.first.size());
  return false;
}

}  // namespace

Row to_row(const Sample& sample) {
  return {sample.key,
          sample.cluster,
          sample.score,
          sample.tokens,
          sample.prediction,
          hash_text(sample.gold, hash_text(sample.prompt + '\0')),
          hash_text(sample.prediction, hash_text(sample.output + '\0')),
          sample.output.find_first_not_of(" \t\r\n") == std::string::npos,
          sample.detail};
}

bool is_perplexity(const TaskResult& result) {
  return !result.higher_is_better && (result.primary == "ppl" || result.primary.ends_with("_ppl"));
}

Comparison compare(const TaskResult& first, const std::vector<Row>& first_rows, const TaskResult& second,
                   const std::vector<Row>& second_rows, double alpha) {
  Comparison c;
  c.is_ratio = is_perplexity(first);
  Paired paired;
  c.not_comparable = different_setting(first, second);
  if (c.not_comparable.empty()) c.not_comparable = pair_rows(first_rows, second_rows, c.is_ratio, paired);
  if (!c.comparable()) return c;
  c.pairs = paired.first.size();
  if (c.is_ratio) {
    const LogPplRatio ratio = log_ppl_ratio(paired.first, paired.second, paired.tokens, paired.clusters);
    c.difference = ratio.value;
    c.ci_low = ratio.ci_low;
    c.ci_high = ratio.ci_high;
    c.smallest_detectable = kDetectableErrors * ratio.stderr_;
    c.p = ratio.p_value;
  } else if (!may_be_below(alpha, paired, c)) {
    c.ci_low = c.ci_high = c.smallest_detectable = kUnknown;
  } else {
    const PairedComparison pc = compare_paired(paired.first, paired.second, paired.clusters, kBootstrapSeed);
    c.difference = pc.diff;
    c.ci_low = pc.ci_low;
    c.ci_high = pc.ci_high;
    c.smallest_detectable = pc.smallest_detectable;
    c.right_to_wrong = static_cast<int>(pc.right_to_wrong);
    c.wrong_to_right = static_cast<int>(pc.wrong_to_right);
    c.p = pc.p_value;
  }
  c.p_holm = c.p;
  c.verdict = verdict_of(c.ci_low, c.ci_high, first.higher_is_better);
  return c;
}

std::string_view verdict_word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kBetter:
      return "better";
    case Verdict::kWorse:
      return "worse";
    case Verdict::kNone:
      break;
  }
  return "no measurable difference";
}

std::string difference_text(const Comparison& c) {
  if (!c.comparable()) return fmt::format("not comparable ({})", c.not_comparable);
  const auto print = [&](double v) { return c.is_ratio ? fixed(std::exp(v), 3) : percent(v, true); };
  const std::string value = (c.is_ratio ? "×" : "") + print(c.difference);
  if (std::isnan(c.ci_low) || std::isnan(c.ci_high)) return value + " (no interval: too few rows)";
  return fmt::format("{} {}", value, interval(print(c.ci_low), print(c.ci_high)));
}

std::string detectable_text(const Comparison& c) {
  if (std::isnan(c.smallest_detectable)) return "unknown";
  return c.is_ratio ? "×" + fixed(std::exp(c.smallest_detectable), 3) : "±" + percent(c.smallest_detectable);
}

}  // namespace nibble::report
