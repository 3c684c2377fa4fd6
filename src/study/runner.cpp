#include "study/runner.h"

#include <algorithm>
#include <charconv>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/memory_usage.h"
#include "base/processor.h"
#include "kernels/ops.h"
#include "study/commands.h"
#include "study/process.h"
#include "study/time_left.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// What a child failed of; ends up as the reason of cells.
class StepFailed : public Error {
 public:
  using Error::Error;
};

// Thrown out of a step when a signal has stopped its child.
struct Stopped {};

bool is_disk_full(const std::string& reason) {
  return reason.find("No space left on device") != std::string::npos ||
         reason.find("Disk quota exceeded") != std::string::npos;
}

// Passes on one call at a time.
class OneAtATime : public StudyObserver {
 public:
  explicit OneAtATime(StudyObserver& observer) : observer_(observer) {}
  void step_started(const StudyStep& step) override {
    const std::lock_guard lock(mutex_);
    observer_.step_started(step);
  }
  void progress(const StudyStep& step, std::string_view line) override {
    const std::lock_guard lock(mutex_);
    observer_.progress(step, line);
  }
  void step_done(const StudyStep& step, double seconds) override {
    const std::lock_guard lock(mutex_);
    observer_.step_done(step, seconds);
  }
  void step_failed(const StudyStep& step, const std::string& reason) override {
    const std::lock_guard lock(mutex_);
    observer_.step_failed(step, reason);
  }
  void cell_done(const StudyStep& step, const Cell& cell) override {
    const std::lock_guard lock(mutex_);
    observer_.cell_done(step, cell);
  }

 private:
  StudyObserver& observer_;
  std::mutex mutex_;
};

// A variant with cells that are not done.
struct Pending {
  Variant variant;
  std::vector<size_t> cells;
};

class Runner {
 public:
  Runner(const StudyPlan& plan, const fs::path& dir, const RunnerOptions& options, StudyObserver& observer)
      : plan_(plan), dir_(dir), options_(options), observer_(observer), store_(open_store()) {}

  StudyOutcome run();

 private:
  Store open_store() const;
  void begin();
  std::vector<Pending> pending() const;
  void run_variant(const Variant& variant, const std::vector<size_t>& pending);
  bool needs_quantizing(const Variant& variant) const;
  size_t quantizations_that_fit(const std::string& model) const;
  void quantize_together(const std::vector<const Pending*>& batch);
  void prepare(const Variant& variant, size_t first_cell);
  void quantize(const Variant& variant, size_t first_cell);
  Cell measure(const Variant& variant, const std::string& task, size_t cell, double& seconds);
  void save(const StudyStep& step, size_t cell, const Cell& result);
  ChildResult run_step(StudyStep& step, const std::vector<std::string>& arguments);
  StudyStep make_step(const Variant& variant, const std::string& work, size_t cell) const;
  fs::path model_dir(const Variant& variant) const { return dir_ / "models" / file_name(variant); }
  std::string model_of(const Variant& v) const {
    return v.is_made_here() ? model_dir(v).string() : v.is_baseline() ? v.model : v.source;
  }
  fs::path temporary(const std::string& name) const { return dir_ / "tmp" / name; }
  StudyOutcome outcome() const;

  const StudyPlan& plan_;
  const fs::path dir_;
  const RunnerOptions& options_;
  OneAtATime observer_;
  Store store_;
  StopSignals stop_;
  std::mutex state_;  // store_, cells_, time_left_ and what follows, while quantizations run side by side
  std::map<Variant, std::string> not_quantized_;  // reasons of this run
  std::vector<Cell> cells_;  // of the plan, in its order, with what the store knows (no samples)
  TimeLeft time_left_;
};

Store Runner::open_store() const {
  plan_.validate();
  plan_.check_files();
  make_directory(dir_);
  return Store::open(dir_ / "results.db");
}

// Meta first: once cells are there, the plan they belong to is known.
void Runner::begin() {
  if (const auto before = store_.meta("study_toml")) {
    const std::string where = (dir_ / "results.db").string() + " (study_toml)";
    check_same_study(resolve_plan(parse_study(*before, where), {}), plan_, dir_.string());
  }
  const std::string toml = to_toml(plan_);
  store_.set_meta("study_toml", toml);
  store_.set_meta("finetuned", finetuned_json(plan_));
  store_.set_meta("version", options_.version);
  store_.set_meta("cpu", processor_name());
  store_.set_meta("isa", std::string(kernels().name));
  store_.set_meta("threads", std::to_string(plan_.threads));
  for (const char* name : {"logs", "models", "tmp"}) make_directory(dir_ / name);
  write_file_atomically(dir_ / "study.toml", toml);
  cells_ = planned_cells(plan_);
  store_.plan(cells_);  // all of them, so that the report of a shard says what it lacks
  cells_ = cells_of_shard(std::move(cells_), options_.shard);
  std::map<std::pair<Variant, std::string>, Cell> known;
  for (Cell& cell : store_.cells()) known[{cell.variant, cell.task}] = std::move(cell);
  for (Cell& cell : cells_) {
    cell = known.at({cell.variant, cell.task});
    if (cell.status == CellStatus::kDone) time_left_.add_done(cell.variant, cell.task, cell.seconds);
  }
  for (const Cell& cell : cells_) {
    const auto facts = store_.facts(cell.variant);
    if (facts && cell.variant.is_made_here())
      time_left_.add_done(cell.variant, "quantize", facts->quantize_seconds);
  }
}

std::vector<Pending> Runner::pending() const {
  std::vector<Pending> variants;
  for (size_t i = 0; i < cells_.size(); ++i) {
    if (cells_[i].status == CellStatus::kDone) continue;
    if (variants.empty() || variants.back().variant != cells_[i].variant)
      variants.push_back({cells_[i].variant, {}});
    variants.back().cells.push_back(i);
  }
  return variants;
}

StudyOutcome Runner::run() {
  begin();
  try {
    const std::vector<Pending> variants = pending();
    for (size_t i = 0; i < variants.size(); ++i) {
      if (options_.jobs > 1 && needs_quantizing(variants[i].variant)) {
        std::vector<const Pending*> batch;
        const size_t fit = quantizations_that_fit(variants[i].variant.model);
        for (size_t k = i; k < variants.size() && batch.size() < fit; ++k) {
          if (variants[k].variant.model == variants[i].variant.model && needs_quantizing(variants[k].variant))
            batch.push_back(&variants[k]);
        }
        if (batch.size() > 1) quantize_together(batch);
      }
      run_variant(variants[i].variant, variants[i].cells);
    }
  } catch (const Stopped&) {
  }
  std::error_code ignored;  // a leftover is overwritten by the next run
  fs::remove_all(dir_ / "tmp", ignored);
  return outcome();
}

bool Runner::needs_quantizing(const Variant& variant) const {
  if (!variant.is_made_here() || not_quantized_.contains(variant)) return false;
  const auto facts = store_.facts(variant);
  return !facts || !is_complete_model(model_dir(variant), facts->quantization_report);
}

// By the highest peak that a quantization of this model reported; one, as long as none did.
size_t Runner::quantizations_that_fit(const std::string& model) const {
  constexpr double kShareOfMemory = 0.8;
  double peak = 0;
  for (const Cell& cell : cells_) {
    if (cell.variant.model != model) continue;
    if (const auto facts = store_.facts(cell.variant)) peak = std::max(peak, quantization_peak(*facts));
  }
  const auto available = static_cast<double>(available_memory_bytes());
  if (peak <= 0 || available <= 0) return 1;
  const double fit = std::clamp(kShareOfMemory * available / peak, 1.0, static_cast<double>(options_.jobs));
  return static_cast<size_t>(fit);
}

// Side by side; nothing else runs meanwhile. What fails is told to the variant's cells later.
void Runner::quantize_together(const std::vector<const Pending*>& batch) {
  std::vector<std::exception_ptr> errors(batch.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < batch.size(); ++i) {
    threads.emplace_back([this, &errors, &batch, i] {
      try {
        quantize(batch[i]->variant, batch[i]->cells.front());
      } catch (const StepFailed& failure) {
        const std::lock_guard lock(state_);
        not_quantized_[batch[i]->variant] = failure.what();
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

void Runner::run_variant(const Variant& variant, const std::vector<size_t>& pending) {
  std::string reason;
  try {
    prepare(variant, pending.front());
  } catch (const StepFailed& failure) {
    reason = failure.what();
  }
  for (const size_t i : pending) {
    const std::string task = cells_[i].task;
    const StudyStep step = make_step(variant, task, i);
    Cell cell;
    double seconds = 0;
    try {
      if (!reason.empty()) throw StepFailed(reason);
      cell = measure(variant, task, i, seconds);
    } catch (const StepFailed& failure) {
      cell.status = CellStatus::kFailed;
      cell.reason = failure.what();
    }
    cell.variant = variant;
    cell.task = task;
    cell.seconds = seconds;
    save(step, i, cell);
  }
}

void Runner::save(const StudyStep& step, size_t i, const Cell& cell) {
  store_.save(cell);
  cells_[i].status = cell.status;
  if (cell.status == CellStatus::kDone) time_left_.add_done(cell.variant, cell.task, cell.seconds);
  observer_.cell_done(step, cell);
  if (is_disk_full(cell.reason)) {
    fail("{}: the disk is full ({}); free some space, then run the same command again", dir_.string(),
         cell.reason);
  }
}

// The weights and the facts about them; throws StepFailed.
void Runner::prepare(const Variant& variant, size_t first_cell) {
  if (variant.is_made_here()) {
    if (const auto failed = not_quantized_.find(variant); failed != not_quantized_.end())
      throw StepFailed(failed->second);
    if (needs_quantizing(variant)) quantize(variant, first_cell);
    return;
  }
  if (store_.facts(variant)) return;
  StudyStep step = make_step(variant, "info", first_cell);
  const fs::path json = temporary("info.json");
  const ChildResult child = run_step(step, info_command(model_of(variant), json));
  try {
    store_.set_facts(variant, read_info(json));
  } catch (const OutputError& error) {
    observer_.step_failed(step, error.what());
    throw StepFailed(fmt::format("info: {}", error.what()));
  }
  observer_.step_done(step, child.seconds);
}

void Runner::quantize(const Variant& variant, size_t first_cell) {
  StudyStep step;
  {
    const std::lock_guard lock(state_);
    step = make_step(variant, "quantize", first_cell);
  }
  const fs::path out = model_dir(variant), json = temporary(file_name(variant) + ".json");
  const ChildResult child = run_step(step, quantize_command(plan_, variant, out, json));
  const std::lock_guard lock(state_);
  try {
    const VariantFacts facts = read_quantization(out, child.seconds);
    const auto before = store_.facts(variant);
    const bool measured = std::any_of(cells_.begin(), cells_.end(), [&](const Cell& cell) {
      return cell.variant == variant && cell.status == CellStatus::kDone;
    });
    if (before && measured && before->sha256 != facts.sha256) {
      throw OutputError(fmt::format("other weights ({}) than those measured before ({}); use another --out",
                                    facts.sha256, before->sha256));
    }
    store_.set_facts(variant, facts);
  } catch (const OutputError& error) {
    observer_.step_failed(step, error.what());
    throw StepFailed(fmt::format("quantize: {}", error.what()));
  }
  time_left_.add_done(variant, "quantize", child.seconds);
  observer_.step_done(step, child.seconds);
}

Cell Runner::measure(const Variant& variant, const std::string& task, size_t i, double& seconds) {
  StudyStep step = make_step(variant, task, i);
  const fs::path json = temporary("result.json"), samples = temporary("samples.jsonl");
  std::error_code ignored;  // what an earlier cell left must not pass for this one's
  fs::remove(json, ignored);
  fs::remove(samples, ignored);
  const std::string model = model_of(variant);
  const bool bench = task == kBench, distance = task == kDistance;
  const ChildResult child = run_step(step, bench      ? bench_command(plan_, model)
                                           : distance ? compare_command(plan_, variant.model, model, json)
                                                      : eval_command(plan_, model, task, json, samples));
  seconds = child.seconds;
  try {
    Cell cell = bench      ? read_bench(child.output)
                : distance ? read_distance(json)
                           : read_evaluation(task, json, samples);
    cell.status = CellStatus::kDone;
    observer_.step_done(step, seconds);
    return cell;
  } catch (const OutputError& error) {
    observer_.step_failed(step, error.what());
    throw StepFailed(error.what());
  }
}

// Runs one child to its end. Throws Stopped when a signal ended it, StepFailed when it failed.
ChildResult Runner::run_step(StudyStep& step, const std::vector<std::string>& arguments) {
  if (stop_.received() != 0) throw Stopped{};
  observer_.step_started(step);
  ChildCommand command;
  command.program = options_.program;
  command.arguments = arguments;
  command.log = dir_ / "logs" / fmt::format("{}.{}.log", file_name(step.variant), step.work);
  const ChildResult child =
      run_child(command, stop_, [&](std::string_view line) { observer_.progress(step, line); });
  if (child.ok()) return child;
  if (stop_.received() != 0) throw Stopped{};
  const std::string reason = child.reason();
  observer_.step_failed(step, reason);
  const bool before_cells = step.work == "info" || step.work == "quantize";
  throw StepFailed(before_cells ? fmt::format("{}: {}", step.work, reason) : reason);
}

StudyStep Runner::make_step(const Variant& variant, const std::string& work, size_t cell) const {
  StudyStep step;
  step.variant = variant;
  step.work = work;
  step.cell = cell + 1;
  step.cells = cells_.size();
  std::vector<TimeLeft::Work> left;
  for (size_t i = 0; i < cells_.size(); ++i) {
    // Cells behind us that failed are not tried again in this run.
    if (cells_[i].status == CellStatus::kDone || i < cell) continue;
    const Variant& v = cells_[i].variant;
    const bool first = i == 0 || cells_[i - 1].variant != v;
    if (first && v.is_made_here() && !time_left_.knows(v, "quantize")) left.emplace_back(v, "quantize");
    left.emplace_back(v, cells_[i].task);
  }
  step.seconds_left = time_left_.estimate(left);
  return step;
}

StudyOutcome Runner::outcome() const {
  StudyOutcome outcome;
  outcome.cells = cells_.size();
  for (const Cell& cell : cells_) {
    outcome.done += cell.status == CellStatus::kDone;
    outcome.failed += cell.status == CellStatus::kFailed;
  }
  const Shard& shard = options_.shard;
  const std::string part = shard.count > 1 ? fmt::format("shard {}/{}: ", shard.index, shard.count) : "";
  const std::string counts = fmt::format("{}{} of {} cells done", part, outcome.done, outcome.cells);
  if (outcome.complete()) {
    outcome.message = fmt::format("{}all {} cells done, in {}", part, outcome.cells, dir_.string());
    if (shard.count > 1) outcome.message += "; nibble study --merge puts the shards together";
  } else if (stop_.received() != 0) {
    outcome.stop_signal = stop_.received();
    outcome.message = fmt::format("stopped, {}; the same command goes on from here", counts);
  } else {
    outcome.message = fmt::format("{}, {} failed (reasons in {}); the same command tries these again", counts,
                                  outcome.failed, (dir_ / "logs").string());
  }
  return outcome;
}

}  // namespace

std::vector<Cell> cells_of_shard(std::vector<Cell> cells, const Shard& shard) {
  std::vector<Cell> mine;
  size_t variants = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0 && cells[i].variant != cells[i - 1].variant) ++variants;
    if (shard.takes(variants)) mine.push_back(cells[i]);
  }
  return mine;
}

Shard parse_shard(std::string_view text) {
  const char* end = text.data() + text.size();
  Shard shard;
  const auto index = std::from_chars(text.data(), end, shard.index);
  if (index.ec == std::errc() && index.ptr != end && *index.ptr == '/') {
    const auto count = std::from_chars(index.ptr + 1, end, shard.count);
    if (count.ec == std::errc() && count.ptr == end && shard.index >= 1 && shard.index <= shard.count)
      return shard;
  }
  throw UsageError(
      fmt::format("--shard: '{}' is not understood; write 1/3, 2/3 and 3/3 on three machines", text));
}

StudyOutcome run_study(const StudyPlan& plan, const fs::path& dir, const RunnerOptions& options,
                       StudyObserver& observer) {
  return Runner(plan, dir, options, observer).run();
}

}  // namespace nibble
