#include "open_model.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/file.h"
#include "model/find_model.h"

namespace nibble::app {
namespace {

namespace fs = std::filesystem;

// Its output goes to standard error: what the verb prints is the verb's.
void run_fetch_script(const fs::path& script) {
  std::string path = script.string();
  char* arguments[] = {path.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t child = 0;
  const int error = ::posix_spawn(&child, path.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail("{}: cannot be run: {}", path, std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("{} failed; its messages above say why", path);
}

}  // namespace

fs::path locate_model(const std::string& name) {
  if (name == kFetchedModel && !fs::exists(fetched_model_path()) && !fetch_script().empty()) {
    fmt::print(stderr, "{} is not there yet: fetching it into {}\n", name,
               fetched_model_path().parent_path().string());
    run_fetch_script(fetch_script());
  }
  return find_model(name);
}

void require_device(const GlobalOptions& global) { device_name(global.precision().device); }

LoadedModel open_model(const std::string& name, const GlobalOptions& global) {
  require_device(global);
  return load_model_and_tokenizer(locate_model(name), global.gguf_dtype());
}

bool has_default_task_files(const std::string& model) {
  return is_bundled_model(model) || model == kFetchedModel;
}

fs::path task_files(const std::optional<std::string>& given, const std::string& model) {
  if (given) return *given;
  if (!has_default_task_files(model))
    throw UsageError(fmt::format(
        "{}: which task files? Name their folder with --data; `nibble pull --dataset TASK` brings "
        "public ones to {}, made-up ones lie in {}",
        model, pulled_task_files().string(), bundled_task_files().string()));
  const fs::path files = bundled_task_files();
  if (model == kFetchedModel)
    fmt::print(stderr, "no --data: the made-up tasks of {} say how much is lost, not how good {} is\n",
               files.string(), model);
  return files;
}

std::string text_argument(const std::optional<std::string>& text, const std::optional<std::string>& file) {
  if (text.has_value() == file.has_value()) throw UsageError("give either --text or --file");
  return text ? *text : read_file(*file);
}

}  // namespace nibble::app
