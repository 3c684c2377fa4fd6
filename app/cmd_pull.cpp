// nibble pull ORG/NAME
#include <cstdlib>

#include "base/progress.h"
#include "commands.h"
#include "hub/pull.h"
#include "interrupt.h"
#include "model/find_model.h"
#include "report/format.h"

namespace nibble::app {
namespace {

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

int run(PullOptions options, const GlobalOptions& global) {
  options.repository = hub_repository_dir(options.id);
  options.endpoint = from_environment("HF_ENDPOINT", options.endpoint);
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  options.download.token = from_environment("HF_TOKEN");
  options.offline = options.offline || is_set("HF_HUB_OFFLINE");
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

}  // namespace

Run cmd_pull(Arguments& verb, const GlobalOptions& global) {
  auto options = std::make_shared<PullOptions>();
  verb.option("id", options->id, "a model of the hub").required().type_name("ORG/NAME");
  verb.option("--revision", options->revision, "a branch, a tag or a commit").show_default();
  verb.option("--jobs", options->jobs, "files side by side").range(1, 32).show_default();
  verb.flag("--offline", options->offline, "only what is there; HF_HUB_OFFLINE=1 says the same");
  return [options, &global] { return run(*options, global); };
}

}  // namespace nibble::app
