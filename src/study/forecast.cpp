#include "study/forecast.h"

#include <algorithm>

#include "base/error.h"
#include "study/commands.h"

namespace nibble {
namespace {

constexpr const char* kQuantize = "quantize";

// One piece of work that some study did.
struct Done {
  Variant variant;
  std::string work;
  double seconds = 0, memory = 0;  // memory 0: not stored
  double parameters = 0;
};

void add_done(std::vector<Done>& all, const Store& store) {
  std::optional<Variant> last;
  for (const Cell& cell : store.cells()) {
    const auto facts = store.facts(cell.variant);
    const double parameters = facts ? static_cast<double>(facts->parameters) : 0;
    if (facts && cell.variant.is_made_here() && cell.variant != last)
      all.push_back(
          {cell.variant, kQuantize, facts->quantize_seconds, quantization_peak(*facts), parameters});
    last = cell.variant;
    if (cell.status != CellStatus::kDone) continue;
    const double peak = cell.memory ? static_cast<double>(cell.memory->peak_rss)
                        : cell.distance.is_object()
                            ? json_get_or<double>(cell.distance, "peak_rss", 0, kDistance)
                            : 0;
    all.push_back({cell.variant, cell.task, cell.seconds, peak, parameters});
  }
}

enum class Closeness { kNone, kOtherModel, kSameModel, kSameMethod, kSameVariant };

Closeness closeness(const Done& done, const Variant& v, const std::string& work) {
  const Variant& d = done.variant;
  if (done.work != work || d.is_baseline() != v.is_baseline()) return Closeness::kNone;
  if (d == v) return Closeness::kSameVariant;
  if (d.model != v.model) return Closeness::kOtherModel;
  return d.method == v.method ? Closeness::kSameMethod : Closeness::kSameModel;
}

// The mean over the closest that have the figure.
std::optional<Prediction> predict(const std::vector<Done>& all, const Variant& v, const std::string& work,
                                  double parameters, double Done::*figure) {
  Closeness best = Closeness::kNone;
  const auto usable = [&](const Done& done) {
    const Closeness c = closeness(done, v, work);
    const bool scalable = c != Closeness::kOtherModel || (parameters > 0 && done.parameters > 0);
    return done.*figure > 0 && scalable ? c : Closeness::kNone;
  };
  for (const Done& done : all) best = std::max(best, usable(done));
  if (best == Closeness::kNone) return std::nullopt;
  double sum = 0, n = 0;
  const Done* example = nullptr;
  for (const Done& done : all) {
    if (usable(done) != best) continue;
    sum += done.*figure * (best == Closeness::kOtherModel ? parameters / done.parameters : 1);
    ++n;
    if (!example) example = &done;
  }
  Prediction p{sum / n, best == Closeness::kOtherModel, "measured"};
  if (best != Closeness::kSameVariant) p.basis = fmt::format("as {} {}", example->variant.name(), work);
  if (n > 1) p.basis += fmt::format(" and {} more", static_cast<size_t>(n) - 1);
  if (best == Closeness::kOtherModel) p.basis += ", by the ratio of the parameters";
  return p;
}

}  // namespace

std::optional<double> Forecast::seconds() const {
  double sum = 0;
  for (const ForecastStep& step : steps) {
    if (!step.seconds) return std::nullopt;
    sum += step.seconds->value;
  }
  return sum;
}

const ForecastStep* Forecast::most_memory() const {
  const ForecastStep* most = nullptr;
  for (const ForecastStep& step : steps) {
    if (step.memory && (!most || step.memory->value > most->memory->value)) most = &step;
  }
  return most;
}

size_t Forecast::without_memory() const {
  return static_cast<size_t>(
      std::count_if(steps.begin(), steps.end(), [](const ForecastStep& s) { return !s.memory; }));
}

size_t Forecast::without_seconds() const {
  return static_cast<size_t>(
      std::count_if(steps.begin(), steps.end(), [](const ForecastStep& s) { return !s.seconds; }));
}

bool Forecast::rough() const {
  return std::any_of(steps.begin(), steps.end(), [](const ForecastStep& s) {
    return (s.seconds && s.seconds->rough) || (s.memory && s.memory->rough);
  });
}

Forecast forecast_study(const StudyPlan& plan, const std::filesystem::path& dir, const Shard& shard,
                        const std::vector<std::filesystem::path>& like,
                        const std::map<std::string, uint64_t>& parameters) {
  std::vector<Done> all;
  std::map<std::pair<Variant, std::string>, CellStatus> known;
  std::map<Variant, bool> quantized;
  if (std::filesystem::exists(dir / "results.db")) {
    const Store store = Store::open(dir / "results.db", true);
    add_done(all, store);
    for (const Cell& cell : store.cells()) {
      known[{cell.variant, cell.task}] = cell.status;
      quantized[cell.variant] = store.facts(cell.variant).has_value();
    }
  }
  for (const auto& other : like) add_done(all, Store::open(other / "results.db", true));
  Forecast forecast;
  forecast.measured = static_cast<size_t>(
      std::count_if(all.begin(), all.end(), [](const Done& done) { return done.work != kQuantize; }));
  std::optional<Variant> last;
  for (const Cell& cell : cells_of_shard(planned_cells(plan), shard)) {
    ++forecast.cells;
    const auto status = known.find({cell.variant, cell.task});
    if (status != known.end() && status->second == CellStatus::kDone) {
      ++forecast.done;
      continue;
    }
    const auto of_model = parameters.find(cell.variant.model);
    const double size = of_model == parameters.end() ? 0 : static_cast<double>(of_model->second);
    const auto add = [&](const std::string& work) {
      forecast.steps.push_back({cell.variant, work, predict(all, cell.variant, work, size, &Done::seconds),
                                predict(all, cell.variant, work, size, &Done::memory)});
    };
    if (cell.variant != last && cell.variant.is_made_here() && !quantized[cell.variant]) add(kQuantize);
    last = cell.variant;
    add(cell.task);
  }
  return forecast;
}

}  // namespace nibble
