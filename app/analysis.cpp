#include "analysis.h"

#include <algorithm>
#include <map>

#include "base/progress.h"
#include "eval/compare.h"
#include "interrupt.h"
#include "model/find_model.h"
#include "open_model.h"
#include "report/format.h"
#include "report/text_table.h"

namespace nibble::app {
namespace {

constexpr size_t kTableWidth = 118;
constexpr size_t kShown = 12;  // linears in the table of the worst

using report::Align;
using report::TextTable;

std::string group_title(int group) { return fmt::format("g{}", group); }

}  // namespace

std::vector<std::filesystem::path> calibration_files(const std::vector<std::string>& given,
                                                     const std::string& model) {
  if (!given.empty()) return {given.begin(), given.end()};
  if (!is_bundled_model(model))
    fmt::print(stderr,
               "no --calibration: the bundled made-up text is used; real text serves a real model better\n");
  return bundled_calibration(bundled_task_files());
}

Analysis analyze(std::shared_ptr<const Model> model, const CalibrationOptions& calibration,
                 const AnalysisOptions& options, ThreadPool& pool) {
  CalibrationOptions wanted = calibration;
  wanted.seqlen = std::min(wanted.seqlen, model->config.max_context);
  const Calibration text = load_calibration(wanted, model->load_tokenizer());
  Progress progress(stderr, "analyze", "blocks");
  const DivergenceFn divergence = [](std::span<const float> base, std::span<const float> changed) {
    return position_distance(base, changed, 0).kl;
  };
  return analyze_model(std::move(model), text, options, divergence, pool, [&](int done, int total) {
    InterruptGuard::check();
    progress.update(static_cast<size_t>(done), static_cast<size_t>(total));
  });
}

std::string render_analysis(const Analysis& a) {
  const bool kl = a.kl_positions > 0;
  const std::vector<int>& groups = a.options.group_sizes;
  std::string text =
      fmt::format("Every linear rounded alone, inputs of {} tokens of calibration text{}.\n", a.tokens,
                  kl ? fmt::format(", KL over {} positions of it", a.kl_positions) : "");
  if (kl && a.options.kl_by_group) {
    TextTable table{{{"layer", Align::kRight}}, {}, {}};
    for (const int g : groups) table.heads.push_back({fmt::format("KL {}", group_title(g)), Align::kRight});
    table.heads.push_back({"largest / smallest", Align::kRight});
    for (const LayerAnalysis& l : a.layers) {
      std::vector<std::string> row = {std::to_string(l.layer)};
      for (const double v : l.kl) row.push_back(fmt::format("{:.2e}", v));
      row.push_back(fmt::format("{:.1f}", a.growth(l)));
      table.rows.push_back(std::move(row));
    }
    text += fmt::format("\nKL when only this layer is rounded to {} bits:\n", a.options.probe.bits) +
            to_terminal(table, kTableWidth);
  }
  std::vector<const LinearAnalysis*> order;
  for (const LinearAnalysis& l : a.linears) order.push_back(&l);
  std::stable_sort(order.begin(), order.end(), [&](const LinearAnalysis* x, const LinearAnalysis* y) {
    return kl ? x->kl > y->kl : x->probe_error > y->probe_error;
  });
  order.resize(std::min(order.size(), kShown));
  const int bits = a.shown_bits();
  TextTable table{{{"linear"}}, {}, {}};
  if (kl) table.heads.push_back({"KL alone", Align::kRight});
  for (const int g : groups) table.heads.push_back({fmt::format("error {}", group_title(g)), Align::kRight});
  for (const LinearAnalysis* l : order) {
    std::vector<std::string> row = {l->name};
    if (kl) row.push_back(fmt::format("{:.2e}", l->kl));
    for (const int g : groups) row.push_back(fmt::format("{:.2e}", a.error(*l, bits, g)));
    table.rows.push_back(std::move(row));
  }
  text +=
      fmt::format(
          "\nThe {} linears that lose most ({} bits, group size {}; relative output errors at {} bits):\n",
          order.size(), a.options.probe.bits, a.options.probe.group_size, bits) +
      to_terminal(table, kTableWidth);
  std::string breaking;
  for (const LinearAnalysis& l : a.linears) {
    if (a.growth(l) > Analysis::kBreaks)
      breaking +=
          fmt::format("  {}: output error {:.1f} times that of the smallest group\n", l.name, a.growth(l));
  }
  for (const LayerAnalysis& l : a.layers) {
    if (a.growth(l) > Analysis::kBreaks)
      breaking +=
          fmt::format("  layer {}: KL {:.1f} times that of the smallest group\n", l.layer, a.growth(l));
  }
  return text + (breaking.empty()
                     ? fmt::format(
                           "\nNo linear and no layer loses more than {:g} times as much at the largest group "
                           "as at the smallest.\n",
                           Analysis::kBreaks)
                     : "\nBreaking at large groups:\n" + breaking);
}

std::string render_plan(const SizePlan& plan) {
  std::map<std::pair<int, int>, std::pair<int, int64_t>> by_choice;  // (bits, group) → linears, weights
  for (const PlannedLinear& l : plan.linears) {
    auto& [count, weights] = by_choice[{l.choice.plan.bits, l.choice.plan.group_size}];
    ++count;
    weights += l.weights;
  }
  TextTable table{{{"bits", Align::kRight},
                   {"group", Align::kRight},
                   {"linears", Align::kRight},
                   {"weights, million", Align::kRight}},
                  {},
                  {}};
  for (const auto& [choice, sum] : by_choice)
    table.rows.push_back({std::to_string(choice.first),
                          choice.first == 16 ? "" : std::to_string(choice.second), std::to_string(sum.first),
                          fmt::format("{:.2f}", static_cast<double>(sum.second) / 1e6)});
  const int scale_bits = plan.linears.empty() ? 16 : plan.linears.front().choice.plan.scale_bits;
  return fmt::format("plan: {:.3f} bits a weight in the linear layers, scales of {} bits\n",
                     plan.bits_per_weight(), scale_bits) +
         to_terminal(table, kTableWidth);
}

}  // namespace nibble::app
