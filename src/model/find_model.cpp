#include "model/find_model.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "hub/cache.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

fs::path from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? fs::path(value) : fs::path();
}

fs::path user_cache() {
  if (const fs::path cache = from_environment("XDG_CACHE_HOME"); !cache.empty()) return cache;
  const fs::path home = from_environment("HOME");
  if (home.empty()) fail("neither HOME nor XDG_CACHE_HOME is set: no cache to look for models in");
  return home / ".cache";
}

bool is_hub_id(std::string_view name) {
  const size_t slash = name.find('/');
  return slash != std::string_view::npos && slash > 0 && slash + 1 < name.size() &&
         name.find('/', slash + 1) == std::string_view::npos && name.front() != '.' && name.front() != '~';
}

// The snapshot that refs/main names (Hugging Face's cache layout), or an empty path.
fs::path find_in_hub_cache(const std::string& id) {
  const fs::path repository = hub_repository_dir(id);
  const std::string commit = commit_of_ref(repository, "main");
  if (commit.empty()) return {};
  const fs::path snapshot = snapshot_path(repository, commit);
  if (!is_there(snapshot))
    fail("{}: names the revision '{}', which is not in {}", ref_path(repository, "main").string(), commit,
         snapshot.parent_path().string());
  return snapshot;
}

}  // namespace

const std::vector<std::string>& bundled_models() {
  static const std::vector<std::string> names = {"llama-mini", "qwen2-mini", "phi-mini"};
  return names;
}

bool is_bundled_model(std::string_view name) {
  return std::find(bundled_models().begin(), bundled_models().end(), name) != bundled_models().end();
}

fs::path bundled_data_dir() {
  if (const fs::path given = from_environment("NIBBLE_DATA"); !given.empty()) {
    if (!is_there(given / "models"))
      fail("{}: NIBBLE_DATA has no folder models; data/mini of a checkout has", given.string());
    return given;
  }
  const fs::path checkout = fs::path(NIBBLE_SOURCE_DIR) / "data" / "mini";
  if (is_there(checkout / "models")) return checkout;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = program.parent_path().parent_path() / "share" / "nibble" / "mini";
  if (!error && is_there(installed / "models")) return installed;
  fail("the bundled models are in neither {} nor {}; set NIBBLE_DATA to data/mini of a checkout",
       checkout.string(), installed.string());
}

fs::path bundled_task_files() { return bundled_data_dir() / "data"; }

fs::path fetched_model_path() {
  return user_cache() / "nibble" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

fs::path pulled_task_files() { return user_cache() / "nibble" / "data"; }

fs::path fetch_script() {
  const fs::path script = fs::path(NIBBLE_SOURCE_DIR) / "scripts" / "fetch_smollm2.sh";
  return is_there(script) ? script : fs::path();
}

fs::path hub_cache_dir() {
  if (const fs::path cache = from_environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const fs::path home = from_environment("HF_HOME"); !home.empty()) return home / "hub";
  return user_cache() / "huggingface" / "hub";
}

fs::path hub_repository_dir(const std::string& id) {
  if (!is_hub_id(id)) throw UsageError(fmt::format("'{}' is not ORG/NAME", id));
  std::string folder = "models--" + id;
  folder.replace(folder.find('/'), 1, "--");
  return hub_cache_dir() / folder;
}

fs::path find_model(const std::string& name) {
  if (name.empty()) fail("the model's name is empty");
  if (is_bundled_model(name)) return bundled_data_dir() / "models" / name;
  if (name == kFetchedModel) {
    const fs::path path = fetched_model_path();
    if (!is_there(path))
      fail("{} is not there yet; bring it with scripts/fetch_smollm2.sh of a checkout", path.string());
    return path;
  }
  if (is_there(name)) return name;
  if (is_hub_id(name)) {
    if (const fs::path snapshot = find_in_hub_cache(name); !snapshot.empty()) return snapshot;
    fail("{}: neither a path nor a model in {}; `nibble pull {}` brings it", name, hub_cache_dir().string(),
         name);
  }
  fail("{}: no such file, directory or model; bundled are llama-mini, qwen2-mini and phi-mini, {} is fetched",
       name, kFetchedModel);
}

}  // namespace nibble
