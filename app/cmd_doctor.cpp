// nibble doctor
#include <fmt/ranges.h>

#include <algorithm>

#include "base/memory_usage.h"
#include "base/processor.h"
#include "commands.h"
#include "kernels/ops.h"
#include "model/cuda_device.h"
#include "model/find_model.h"
#include "quant/linalg.h"
#include "report/format.h"
#include "study/ceilings.h"

namespace nibble::app {
namespace {

namespace fs = std::filesystem;

// Names of hub models in the cache, "org/name".
std::vector<std::string> hub_models() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(hub_cache_dir(), error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with("models--")) continue;
    name = name.substr(8);
    if (const size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
    names.push_back(name);
  }
  return names;
}

// Task files that `nibble pull --dataset` brought: "boolq.validation.jsonl".
std::vector<std::string> pulled_files() {
  constexpr std::string_view kSource = ".source.json";
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(pulled_task_files(), error)) {
    std::string name = entry.path().filename().string();
    if (!name.ends_with(kSource)) continue;
    name.erase(name.size() - kSource.size());
    if (fs::exists(entry.path().parent_path() / name)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> bundled_dir() {
  try {
    return bundled_data_dir().string();
  } catch (const Error&) {
    return std::nullopt;
  }
}

int run(const GlobalOptions& global) {
  ThreadPool pool(global.thread_count(), global.pin);
  const Ceilings ceilings = measure_ceilings(pool);
  const std::optional<double> bandwidth = ceilings.read_bytes_per_s;
  const std::string no_gpu = cuda_problem();
  const auto bundled = bundled_dir();
  const bool fetched = fs::exists(fetched_model_path());
  std::vector<std::string> missing;
  if (!bundled) missing.push_back("the bundled models: set NIBBLE_DATA to data/mini of a checkout");
  if (!fetched)
    missing.push_back(
        fmt::format("{}: scripts/fetch_smollm2.sh (any verb that names it does this)", kFetchedModel));

  OrderedJson json;
  json["version"] = NIBBLE_VERSION;
  json["processor"] = processor_name();
  json["cores"] = available_threads();
  json["isa"] = kernels().name;
  json["isas"] = supported_isas();
  json["last_level_cache_bytes"] = last_level_cache_bytes();
  json["memory_bytes"] = {{"total", total_memory_bytes()}, {"available", available_memory_bytes()}};
  json["read_bandwidth_bytes_per_s"] = bandwidth ? OrderedJson(*bandwidth) : OrderedJson(nullptr);
  json["int8_ops_per_s"] = ceilings.int8_ops_per_s;
  json["dense_ops_per_s"] = ceilings.dense_ops_per_s;
  json["nvidia_driver"] = fs::exists("/proc/driver/nvidia/version");
  json["gpu"] = no_gpu.empty() ? OrderedJson(cuda_device_name()) : OrderedJson(nullptr);
  json["bundled"] = bundled ? OrderedJson(*bundled) : OrderedJson(nullptr);
  json["smollm2-135m"] = fetched;
  json["hub_models"] = hub_models();
  json["pulled_data"] = pulled_files();
  json["missing"] = missing;

  std::string isas;
  for (const std::string_view isa : supported_isas())
    isas += fmt::format("{}{}", isas.empty() ? "" : ", ", isa);
  std::string text = fmt::format("nibble {}\n", NIBBLE_VERSION);
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", name, value);
  };
  const auto mb = [](uint64_t bytes) { return report::megabytes(static_cast<double>(bytes)) + " MB"; };
  line("processor", fmt::format("{}, {} cores for this process", processor_name(), available_threads()));
  line("kernels", fmt::format("{} (of {})", kernels().name, isas));
  line("quantizers", fmt::format("OpenBLAS with its kernels for {}", blas_kernels()));
  line("cache", mb(last_level_cache_bytes()) + " last level");
  line("memory", fmt::format("{} of {} free", mb(available_memory_bytes()), mb(total_memory_bytes())));
  line("bandwidth", bandwidth ? fmt::format("{:.1f} GB/s read with {} threads", *bandwidth / 1e9, pool.size())
                              : "not measured: too little free memory");
  line("arithmetic",
       fmt::format("{:.0f} GOPS int8, {:.0f} GFLOPS {} with {} threads", ceilings.int8_ops_per_s / 1e9,
                   ceilings.dense_ops_per_s / 1e9, ceilings.dense_type, pool.size()));
  line("GPU", no_gpu.empty() ? cuda_device_name() : no_gpu);
  line("bundled", bundled.value_or("not found"));
  line("fetched", fetched ? fetched_model_path().string() : "nothing");
  line("hub cache", hub_models().empty() ? hub_cache_dir().string() + ": nothing"
                                         : fmt::format("{}", fmt::join(hub_models(), ", ")));
  line("data", pulled_files().empty()
                   ? "nothing pulled; nibble pull --dataset TASK brings public task files"
                   : fmt::format("{}: {}", pulled_task_files().string(), fmt::join(pulled_files(), ", ")));
  for (const std::string& what : missing) line("missing", what);
  write_output(global, json, text);
  return 0;
}

}  // namespace

Run cmd_doctor(Arguments&, const GlobalOptions& global) {
  return [&global] { return run(global); };
}

}  // namespace nibble::app
