#include "study/plan.h"

#include "base/error.h"
#include "base/thread_pool.h"
#include "eval/task.h"
#include "study/plan_rules.h"

namespace nibble {
namespace {

using namespace plan_rules;

template <typename T>
void overlay(std::optional<T>& below, const std::optional<T>& above) {
  if (above) below = above;
}

template <typename T>
std::string text_or(const std::optional<T>& value, const char* otherwise) {
  return value ? fmt::format("{}", *value) : otherwise;
}

}  // namespace

StudyPlan resolve_plan(const StudyOptions& file, const StudyOptions& command_line) {
  StudyOptions o = file;
  overlay(o.models, command_line.models);
  overlay(o.tasks, command_line.tasks);
  overlay(o.limit, command_line.limit);
  overlay(o.seed, command_line.seed);
  overlay(o.shots, command_line.shots);
  overlay(o.samples, command_line.samples);
  overlay(o.seqlen, command_line.seqlen);
  overlay(o.window, command_line.window);
  overlay(o.threads, command_line.threads);
  overlay(o.same_examples, command_line.same_examples);
  overlay(o.symmetric, command_line.symmetric);
  overlay(o.data, command_line.data);
  overlay(o.calibration, command_line.calibration);
  overlay(o.dtype, command_line.dtype);
  overlay(o.device, command_line.device);
  overlay(o.bench_prompt, command_line.bench_prompt);
  overlay(o.bench_generate, command_line.bench_generate);
  overlay(o.bench_repetitions, command_line.bench_repetitions);
  overlay(o.kl_windows, command_line.kl_windows);
  overlay(o.kl_window, command_line.kl_window);

  StudyPlan plan;
  std::vector<StudyMethod> methods;
  if (command_line.methods) {
    for (const StudyMethod& named : *command_line.methods) {
      const size_t before = methods.size();
      for (const StudyMethod& m : file.methods.value_or(std::vector<StudyMethod>{})) {
        if (m.name == named.name) methods.push_back(m);
      }
      if (methods.size() == before) methods.push_back(named);
    }
  } else if (file.methods) {
    methods = *file.methods;
  } else {
    for (const MethodPlan& m : plan.methods) methods.push_back({m.name, {}, {}});
  }
  plan.methods.clear();
  for (StudyMethod& m : methods) {
    if (!m.group_sizes) m.group_sizes = file.group_sizes;
    if (!m.bits) m.bits = file.bits;
    overlay(m.group_sizes, command_line.group_sizes);
    overlay(m.bits, command_line.bits);
    MethodPlan& method = plan.methods.emplace_back();
    method.name = m.name;
    method.bits = m.bits.value_or(method.bits);
    method.group_sizes = m.group_sizes.value_or(method.group_sizes);
  }

  plan.models = o.models.value_or(plan.models);
  for (const QuantizedModel& quantized : file.quantized) {
    const auto named = std::find(plan.models.begin(), plan.models.end(), quantized.model);
    if (named == plan.models.end() && command_line.models) continue;
    if (named != plan.models.end()) plan.models.erase(named);
    plan.quantized.push_back(quantized);
  }
  for (const FineTunedModel& f : file.finetuned) {
    const auto named = [&](const std::string& name) {
      return std::find(plan.models.begin(), plan.models.end(), name) != plan.models.end();
    };
    // The command line may leave one of them out.
    if (!command_line.models || (named(f.model) && named(f.base))) plan.finetuned.push_back(f);
  }
  plan.tasks = o.tasks.value_or(plan.tasks);
  plan.limit = o.limit;
  plan.shots = o.shots;
  plan.seed = o.seed.value_or(plan.seed);
  if (o.data) plan.data = std::filesystem::absolute(*o.data).lexically_normal();
  plan.same_examples = o.same_examples.value_or(plan.same_examples);
  plan.symmetric = o.symmetric.value_or(plan.symmetric);
  for (const auto& path : o.calibration.value_or(std::vector<std::filesystem::path>{})) {
    plan.calibration.push_back(std::filesystem::absolute(path).lexically_normal());
  }
  plan.samples = o.samples;
  plan.seqlen = o.seqlen;
  plan.window = o.window;
  plan.dtype = o.dtype;
  plan.device = o.device;
  plan.threads = o.threads.value_or(available_threads());
  plan.bench_prompt = o.bench_prompt.value_or(plan.bench_prompt);
  plan.bench_generate = o.bench_generate.value_or(plan.bench_generate);
  plan.bench_repetitions = o.bench_repetitions.value_or(plan.bench_repetitions);
  plan.kl_windows = o.kl_windows.value_or(plan.kl_windows);
  plan.kl_window = o.kl_window;
  plan.validate();
  return plan;
}

void StudyPlan::validate() const {
  if (models.empty() && quantized.empty()) refuse("models: none; name some, for example --models llama-mini");
  std::vector<std::string> all_models = models;
  for (const QuantizedModel& q : quantized) {
    all_models.push_back(q.model);
    if (!q.of.empty() && std::find(models.begin(), models.end(), q.of) == models.end())
      refuse("[[quantized]] {}: 'of' names {}, which is not among the models", q.model, q.of);
  }
  for (const FineTunedModel& f : finetuned) {
    for (const std::string& name : {f.model, f.base}) {
      if (std::find(models.begin(), models.end(), name) == models.end())
        refuse("[[finetuned]] {}: {} is not among the models", f.model, name);
    }
    if (f.model == f.base) refuse("[[finetuned]] {}: 'base' is the model itself", f.model);
  }
  for (const std::string& model : all_models) check_not_empty("models", model);
  check_no_repeats("models", all_models);
  std::set<Variant> seen;
  for (const MethodPlan& m : methods) {
    check_method("methods", m.name);
    check_bits("bits", m.bits);
    if (m.group_sizes.empty()) refuse("group_sizes: none for method '{}'", m.name);
    for (const int g : m.group_sizes) {
      check_group_size("group_sizes", g);
      if (!seen.insert({"", m.name, m.bits, g}).second) {
        refuse("methods: {} at {} bits and group size {} stands there twice", m.name, m.bits, g);
      }
    }
  }
  for (const std::string& task : tasks) check_task("tasks", task);
  check_no_repeats("tasks", tasks);
  if (limit) check_range("limit", *limit, 1, INT64_MAX);
  if (shots) check_range("shots", *shots, 0, 8);
  check_range("seed", seed, 0, INT64_MAX);
  if (samples) check_range("samples", *samples, 1, kMaxInt);
  if (seqlen) check_range("seqlen", *seqlen, 2, kMaxInt);
  if (window) check_range("window", *window, 2, kMaxInt);
  if (dtype) check_dtype("dtype", *dtype);
  if (device) check_device("device", *device);
  check_range("threads", threads, 1, 4096);
  check_range("bench prompt", bench_prompt, 0, kMaxInt);
  check_range("bench generate", bench_generate, 0, kMaxInt);
  check_range("bench repetitions", bench_repetitions, 0, kMaxInt);
  if (bench_repetitions > 0 && bench_prompt == 0 && bench_generate == 0) {
    refuse("bench: neither prompt nor generate; repetitions = 0 leaves the bench out");
  }
  check_range("kl windows", kl_windows, 0, kMaxInt);
  if (kl_window) check_range("kl window", *kl_window, kSmallestKlWindow, kMaxInt);
  if (tasks.empty() && bench_repetitions == 0) refuse("tasks: none, and no bench either");
}

void StudyPlan::check_files() const {
  if (data && !std::filesystem::is_directory(*data)) refuse("data: {} is not a directory", data->string());
  for (const auto& path : calibration) {
    if (!std::filesystem::is_regular_file(path)) refuse("calibration: {} is not a file", path.string());
  }
}

std::vector<Cell> planned_cells(const StudyPlan& plan) {
  std::vector<Cell> cells;
  const bool has_text = std::find(plan.tasks.begin(), plan.tasks.end(), kTextTask) != plan.tasks.end();
  const auto add = [&](const Variant& variant, bool has_baseline) {
    const auto add_task = [&](const std::string& task) {
      Cell& cell = cells.emplace_back();
      cell.variant = variant;
      cell.task = task;
    };
    for (const std::string& task : plan.tasks) add_task(task);
    if (has_text && plan.kl_windows > 0 && has_baseline && !variant.is_baseline()) add_task(kDistance);
    if (plan.bench_repetitions > 0) add_task(kBench);
  };
  for (const std::string& model : plan.models) {
    add({model, "baseline", 16, 0}, true);
    for (const MethodPlan& m : plan.methods) {
      for (const int g : m.group_sizes) add({model, m.name, m.bits, g}, true);
    }
    for (const QuantizedModel& q : plan.quantized) {
      if (q.of == model) add(q.variant(), true);
    }
  }
  for (const QuantizedModel& q : plan.quantized) {
    if (q.method.empty()) fail("{}: how it was quantized is not known yet", on_one_line(q.model));
    if (q.of.empty()) add(q.variant(), false);
  }
  return cells;
}

void check_same_study(const StudyPlan& before, const StudyPlan& now, std::string_view where) {
  const auto same = [&](const char* key, const std::string& old_value, const std::string& new_value) {
    if (old_value == new_value) return;
    fail(
        "{}: this study was begun with {} = {}, not {}; results would not compare: keep {}, or use another "
        "--out",
        where, key, old_value, new_value, old_value);
  };
  const auto path_text = [](const auto& path) { return path ? path->string() : std::string("(default)"); };
  const auto paths_text = [](const auto& paths) {
    std::string text;
    for (const auto& path : paths) text += (text.empty() ? "" : ", ") + path.string();
    return text.empty() ? "(default)" : text;
  };
  same("limit", text_or(before.limit, "(all)"), text_or(now.limit, "(all)"));
  same("shots", text_or(before.shots, "(default)"), text_or(now.shots, "(default)"));
  same("seed", fmt::to_string(before.seed), fmt::to_string(now.seed));
  same("data", path_text(before.data), path_text(now.data));
  same("same_examples", fmt::to_string(before.same_examples), fmt::to_string(now.same_examples));
  same("symmetric", fmt::to_string(before.symmetric), fmt::to_string(now.symmetric));
  same("calibration", paths_text(before.calibration), paths_text(now.calibration));
  same("samples", text_or(before.samples, "(default)"), text_or(now.samples, "(default)"));
  same("seqlen", text_or(before.seqlen, "(default)"), text_or(now.seqlen, "(default)"));
  same("window", text_or(before.window, "(default)"), text_or(now.window, "(default)"));
  same("dtype", text_or(before.dtype, "(default)"), text_or(now.dtype, "(default)"));
  same("device", before.device.value_or("cpu"), now.device.value_or("cpu"));
  same("threads", fmt::to_string(before.threads), fmt::to_string(now.threads));
  if (before.kl_windows > 0 && now.kl_windows > 0) {  // else there are no two distances to compare
    same("kl windows", fmt::to_string(before.kl_windows), fmt::to_string(now.kl_windows));
    same("kl window", text_or(before.kl_window, "(default)"), text_or(now.kl_window, "(default)"));
  }
  if (before.bench_repetitions == 0 || now.bench_repetitions == 0) return;  // likewise benches
  same("bench prompt", fmt::to_string(before.bench_prompt), fmt::to_string(now.bench_prompt));
  same("bench generate", fmt::to_string(before.bench_generate), fmt::to_string(now.bench_generate));
  same("bench repetitions", fmt::to_string(before.bench_repetitions), fmt::to_string(now.bench_repetitions));
}

}  // namespace nibble
