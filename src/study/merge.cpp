#include "study/merge.h"

#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using CellKey = std::pair<Variant, std::string>;

constexpr const char* kSameEverywhere[] = {"version", "cpu", "isa", "threads"};
constexpr const char* kPlan = "study_toml";

// A database and what it has, without samples.
struct Part {
  std::string name;  // of its directory, for errors
  Store store;
  std::vector<Cell> cells;
};

Part read_part(const fs::path& dir) {
  Part part{dir.string(), Store::open(dir / "results.db", true), {}};
  part.cells = part.store.cells();
  return part;
}

std::string meta(const Part& part, const char* key) {
  const auto value = part.store.meta(key);
  if (!value) fail("{}: does not say its {}; it cannot be merged", part.name, key);
  return *value;
}

void check_same_machine(const Part& first, const Part& other) {
  for (const char* key : kSameEverywhere) {
    const std::string a = meta(first, key), b = meta(other, key);
    if (a != b) {
      fail("{} was measured with {} {}, {} with {} {}: speeds and memory would not compare; keep them apart",
           first.name, key, a, other.name, key, b);
    }
  }
}

void check_same_plan(const Part& first, const Part& other) {
  const auto plan = [&](const Part& part) {
    return resolve_plan(parse_study(meta(part, kPlan), part.name), {});
  };
  check_same_study(plan(first), plan(other), other.name);
  if (meta(first, kPlan) != meta(other, kPlan)) {
    fail(
        "{} and {}: plans with other models, methods, group sizes or tasks; give every --shard the same "
        "study",
        first.name, other.name);
  }
}

// Both done: what was measured must be the same.
void check_same_result(const Part& a, const Cell& x, const Part& b, const Cell& y) {
  const std::string cell = fmt::format("{} {}", x.variant.name(), x.task);
  if (x.result.has_value() != y.result.has_value())
    fail("{}: done in {} and in {}, in one without a result", cell, a.name, b.name);
  if (x.distance.is_object() && y.distance.is_object() &&
      x.distance.value("kl", Json()) != y.distance.value("kl", Json()))
    fail("{}: measured in {} and in {} with different distances", cell, a.name, b.name);
  if (!x.result) return;  // a bench: figures of two runs always differ
  const auto scores = [](const Cell& c) {
    std::map<std::string, double> values;
    for (const auto& [name, metric] : c.result->metrics) values[name] = metric.value;
    return values;
  };
  if (x.result->data_sha256 != y.result->data_sha256)
    fail("{}: {} and {} read different data files (SHA-256)", cell, a.name, b.name);
  if (scores(x) != scores(y))
    fail("{}: measured in {} and in {} with different scores", cell, a.name, b.name);
}

void check_weights(std::map<Variant, std::pair<std::string, std::string>>& seen, const Part& part) {
  for (const Cell& cell : part.cells) {
    const auto facts = part.store.facts(cell.variant);
    if (!facts) continue;
    const auto [at, is_new] = seen.try_emplace(cell.variant, facts->sha256, part.name);
    if (!is_new && at->second.first != facts->sha256) {
      fail("{}: other weights in {} ({}) than in {} ({})", cell.variant.name(), part.name, facts->sha256,
           at->second.second, at->second.first);
    }
  }
}

// Throws unless all parts can stand in one table.
void check_parts(const std::vector<Part>& parts) {
  std::map<CellKey, std::pair<const Part*, const Cell*>> done;
  std::map<Variant, std::pair<std::string, std::string>> weights;
  for (const Part& part : parts) {
    check_same_plan(parts.front(), part);
    check_same_machine(parts.front(), part);
    check_weights(weights, part);
    for (const Cell& cell : part.cells) {
      if (cell.status != CellStatus::kDone) continue;
      const auto [at, is_new] = done.try_emplace({cell.variant, cell.task}, &part, &cell);
      if (!is_new) check_same_result(*at->second.first, *at->second.second, part, cell);
    }
  }
}

// Of models that the target has none of; those that it has stay.
void take_analyses(Store& target, const Part& part) {
  for (const Cell& cell : part.cells) {
    const std::string& model = cell.variant.model;
    if (!cell.variant.is_baseline() || !target.analysis(model).is_null()) continue;
    if (const Json analysis = part.store.analysis(model); !analysis.is_null())
      target.set_analysis(model, analysis);
  }
}

// Cells of `part` that say more than the target does.
size_t take(Store& target, std::map<CellKey, CellStatus>& known, const Part& part) {
  size_t taken = 0;
  for (Cell cell : part.cells) {
    CellStatus& status = known[{cell.variant, cell.task}];
    const bool better = cell.status == CellStatus::kDone
                            ? status != CellStatus::kDone
                            : cell.status == CellStatus::kFailed && status == CellStatus::kPlanned;
    if (!better) continue;
    if (const auto facts = part.store.facts(cell.variant); facts && !target.facts(cell.variant))
      target.set_facts(cell.variant, *facts);
    if (cell.result) cell.result->samples = part.store.samples(cell.variant, cell.task);
    target.save(cell);
    status = cell.status;
    taken += cell.status == CellStatus::kDone;
  }
  return taken;
}

}  // namespace

MergeOutcome merge_studies(const std::vector<fs::path>& sources, const fs::path& dir) {
  if (sources.empty()) throw UsageError("--merge: no directories named");
  std::vector<Part> parts;
  for (const fs::path& source : sources) {
    std::error_code error;
    if (fs::equivalent(source, dir, error))
      throw UsageError(fmt::format("--merge: {} is the --out itself", source.string()));
    parts.push_back(read_part(source));
  }
  check_parts(parts);
  const bool into_existing = fs::exists(dir / "results.db");
  if (into_existing) {
    parts.insert(parts.begin(), read_part(dir));
    // Cut short before its plan was stored: as good as new.
    if (parts.front().store.meta(kPlan)) check_parts(parts);
    parts.erase(parts.begin());
  }
  make_directory(dir);
  Store target = Store::open(dir / "results.db");
  const std::string toml = meta(parts.front(), kPlan);
  for (const char* key : kSameEverywhere) target.set_meta(key, meta(parts.front(), key));
  write_file_atomically(dir / "study.toml", toml);
  const StudyPlan plan = resolve_plan(parse_study(toml, parts.front().name), {});
  target.plan(planned_cells(plan));
  target.set_meta("finetuned", finetuned_json(plan));
  target.set_meta(kPlan, toml);
  std::map<CellKey, CellStatus> status;
  for (const Cell& cell : target.cells()) status[{cell.variant, cell.task}] = cell.status;
  MergeOutcome outcome;
  for (const Part& part : parts) {
    outcome.taken += take(target, status, part);
    take_analyses(target, part);
  }
  for (const auto& [key, value] : status) {
    ++outcome.cells;
    outcome.done += value == CellStatus::kDone;
    outcome.failed += value == CellStatus::kFailed;
  }
  outcome.message = fmt::format("{} of {} cells done, {} failed; {} came in now, in {}", outcome.done,
                                outcome.cells, outcome.failed, outcome.taken, dir.string());
  return outcome;
}

}  // namespace nibble
