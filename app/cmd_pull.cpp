// nibble pull ORG/NAME, nibble pull --dataset NAME
#include <cstdlib>
#include <limits>

#include "base/progress.h"
#include "commands.h"
#include "eval/task_data.h"
#include "hub/dataset.h"
#include "hub/pull.h"
#include "interrupt.h"
#include "model/find_model.h"
#include "report/format.h"

namespace nibble::app {
namespace {

namespace fs = std::filesystem;

struct PullArguments {
  PullOptions model;
  std::string dataset, split, out;
  int64_t limit = 0;
  bool offline = false;
  Argument revision{nullptr}, jobs{nullptr}, split_given{nullptr}, out_given{nullptr}, limit_given{nullptr};
};

std::string from_environment(const char* name, std::string otherwise = "") {
  const char* value = std::getenv(name);
  return value && *value ? value : std::move(otherwise);
}

// The variables of Hugging Face's own tools; truth is spelled as there.
bool is_set(const char* name) {
  const std::string value = from_environment(name);
  return value == "1" || value == "true" || value == "TRUE" || value == "yes" || value == "YES" ||
         value == "ON" || value == "on";
}

std::string without_end_slashes(std::string address) {
  while (address.ends_with('/')) address.pop_back();
  return address;
}

int pull_models(PullOptions options, const GlobalOptions& global) {
  options.repository = hub_repository_dir(options.id);
  options.endpoint = without_end_slashes(from_environment("HF_ENDPOINT", options.endpoint));
  options.download.token = from_environment("HF_TOKEN");
  const InterruptGuard guard;
  Progress progress(stderr, options.id, "MB");
  const Pulled pulled = pull_model(options, [&](uint64_t done, uint64_t total) {
    InterruptGuard::check();
    if (total > 0) progress.update(done / 1000000, total / 1000000);
  });
  progress.finish();
  OrderedJson json{{"model", options.id},     {"revision", options.revision},
                   {"commit", pulled.commit}, {"path", pulled.snapshot.string()},
                   {"files", pulled.files},   {"fetched", pulled.fetched},
                   {"bytes", pulled.bytes}};
  write_output(
      global, json,
      fmt::format("{} at {}: {} files, {}; {} fetched now\n{}\n", options.id, pulled.commit.substr(0, 12),
                  pulled.files, report::megabytes(pulled.bytes), pulled.fetched, pulled.snapshot.string()));
  return 0;
}

// Where HF_ENDPOINT names a hub of one's own, its datasets server is asked, as Hugging Face's tools would, so
// that this hub's token goes nowhere else.
std::string datasets_endpoint(std::string otherwise) {
  if (const std::string hub = from_environment("HF_ENDPOINT"); !hub.empty()) {
    otherwise = hub;
    if (const size_t host = hub.find("://"); host != std::string::npos)
      otherwise.insert(host + 3, "datasets-server.");
  }
  return without_end_slashes(from_environment("HF_DATASETS_SERVER", std::move(otherwise)));
}

// Without --split: what the task scores, and where its examples come from.
std::vector<std::string> splits_of(const TaskInfo& task, const std::string& split) {
  std::vector<std::string> splits = {canonical_split(split, task.default_split)};
  if (split.empty() && task.default_shots > 0) splits.push_back("train");
  return splits;
}

int pull_datasets(const PullArguments& arguments, const GlobalOptions& global) {
  const DatasetSource& source = find_dataset(arguments.dataset);
  const std::vector<std::string> splits = splits_of(find_task(arguments.dataset), arguments.split);
  const fs::path out = arguments.out.empty() ? pulled_task_files() : fs::path(arguments.out);
  const bool is_folder =
      fs::is_directory(out) || arguments.out.empty() || arguments.out.ends_with('/') || !out.has_extension();
  if (!is_folder && splits.size() > 1)
    throw UsageError(
        fmt::format("{} needs the splits {} and {}: name one with --split, or a folder with --out",
                    source.name, splits[0], splits[1]));
  const InterruptGuard guard;
  OrderedJson files = OrderedJson::array();
  std::string text;
  for (const std::string& split : splits) {
    const DatasetPullOptions defaults;
    DatasetPullOptions options{arguments.dataset,
                               split,
                               datasets_endpoint(defaults.endpoint),
                               is_folder ? out / candidate_files(source.name, split).front() : out,
                               static_cast<uint64_t>(arguments.limit),
                               arguments.offline,
                               {}};
    options.download.token = from_environment("HF_TOKEN");
    options.download.subject = "data set";
    options.download.named_by = "--dataset and --split";
    Progress progress(stderr, fmt::format("{} {}", source.name, split), "rows");
    const PulledDataset pulled = pull_dataset(options, [&](uint64_t done, uint64_t total) {
      InterruptGuard::check();
      if (total > 0) progress.update(done, total);
    });
    progress.finish();
    const std::string revision = pulled.revision.empty() ? "unknown" : pulled.revision.substr(0, 12);
    text += fmt::format("{} {}: {} of {} rows of {} at {}, {} fetched now{}\n{}\n", source.name, split,
                        pulled.rows, pulled.rows_in_split, source.id, revision, pulled.fetched,
                        pulled.partial ? "; the server holds only a part of this split" : "",
                        pulled.file.string());
    files.push_back(
        {{"dataset", source.id},
         {"config", source.config},
         {"split", split},
         {"revision", pulled.revision.empty() ? OrderedJson(nullptr) : OrderedJson(pulled.revision)},
         {"path", pulled.file.string()},
         {"rows", pulled.rows},
         {"rows_in_split", pulled.rows_in_split},
         {"server_has_part_of_split", pulled.partial},
         {"fetched", pulled.fetched},
         {"sha256", pulled.sha256}});
  }
  if (is_folder) text += fmt::format("nibble eval MODEL --tasks {} --data {}\n", source.name, out.string());
  write_output(global, {{"task", source.name}, {"files", files}}, text);
  return 0;
}

int run(PullArguments& arguments, const GlobalOptions& global) {
  const bool dataset = !arguments.dataset.empty();
  if (dataset == !arguments.model.id.empty()) throw UsageError("give either ORG/NAME or --dataset");
  if (dataset && (arguments.revision.given() || arguments.jobs.given()))
    throw UsageError("--revision and --jobs are for models; a data set comes as it is now, page by page");
  if (!dataset &&
      (arguments.split_given.given() || arguments.out_given.given() || arguments.limit_given.given()))
    throw UsageError("--split, --out and --limit are for --dataset");
  arguments.offline = arguments.offline || is_set("HF_HUB_OFFLINE");
  if (dataset) return pull_datasets(arguments, global);
  arguments.model.offline = arguments.offline;
  return pull_models(arguments.model, global);
}

}  // namespace

Run cmd_pull(Arguments& verb, const GlobalOptions& global) {
  auto a = std::make_shared<PullArguments>();
  verb.option("id", a->model.id, "a model of the hub").type_name("ORG/NAME");
  a->revision = verb.option("--revision", a->model.revision, "a branch, a tag or a commit").show_default();
  a->jobs = verb.option("--jobs", a->model.jobs, "files side by side").range(1, 32).show_default();
  verb.flag("--offline", a->offline, "only what is there; HF_HUB_OFFLINE=1 says the same");
  verb.option("--dataset", a->dataset, "a task's public data instead: boolq, gsm8k, msmarco, wikitext")
      .type_name("TASK");
  a->split_given =
      verb.option("--split", a->split,
                  "train, validation or test; without it what the task scores and takes examples from");
  a->out_given =
      verb.option("--out", a->out, "the file, or the folder to give to --data (default: in the cache)")
          .type_name("FILE|DIR");
  a->limit_given = verb.option("--limit", a->limit, "the first rows alone")
                       .type_name("N")
                       .range(1, std::numeric_limits<int>::max());
  return [a, &global] { return run(*a, global); };
}

}  // namespace nibble::app
