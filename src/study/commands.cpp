#include "study/commands.h"

#include <cmath>

#include "base/file.h"
#include "quant/quantize.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

template <typename T>
void add_if(std::vector<std::string>& command, const char* option, const std::optional<T>& value) {
  if (value) command.insert(command.end(), {option, fmt::format("{}", *value)});
}

// Runs `read`; whatever is wrong with the child's output becomes an OutputError.
template <typename Read>
auto reading(Read read) {
  try {
    return read();
  } catch (const Error& error) {
    throw OutputError(error.what());
  } catch (const Json::exception& error) {
    throw OutputError(error.what());
  }
}

// A file that the child was told to write.
Json read_output(const fs::path& file, const std::string& where) {
  if (!fs::exists(file)) fail("{}: nothing was written", where);
  return parse_json(read_file(file), where);
}

uint32_t fnv1a(std::string_view text) {
  uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

// The last part of a path or hub id; with a hash of the whole where that is not the whole.
std::string model_file_name(const std::string& model) {
  constexpr size_t kLongest = 60;
  std::string name = fs::path(model).lexically_normal().filename().string();
  if (name.empty()) name = fs::path(model).lexically_normal().parent_path().filename().string();
  name = name.substr(0, kLongest);
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.';
    if (!plain) c = '_';
  }
  if (name.empty() || name[0] == '.') name = "model" + name;
  return name == model ? name : fmt::format("{}-{:08x}", name, fnv1a(model));
}

}  // namespace

std::string file_name(const Variant& variant) {
  Variant named = variant;
  named.model = model_file_name(variant.model);
  named.source.clear();
  std::string name = named.name();
  name[named.model.size()] = '.';
  if (!variant.source.empty() && variant.source != variant.model)
    name += "." + model_file_name(variant.source);
  return name;
}

std::vector<std::string> info_command(const std::string& model, const fs::path& json) {
  return {"info", model, "--json", json.string()};
}

std::vector<std::string> quantize_command(const StudyPlan& plan, const Variant& variant, const fs::path& out,
                                          const fs::path& json) {
  std::vector<std::string> command = {"quantize",
                                      variant.model,
                                      out.string(),
                                      "--method",
                                      variant.method,
                                      "--bits",
                                      fmt::format("{}", variant.bits),
                                      "--group-size",
                                      fmt::format("{}", variant.group_size)};
  if (plan.symmetric) command.push_back("--symmetric");
  for (const auto& file : plan.calibration) command.insert(command.end(), {"--calibration", file.string()});
  add_if(command, "--samples", plan.samples);
  add_if(command, "--seqlen", plan.seqlen);
  add_if(command, "--device", plan.device);
  command.insert(command.end(), {"--seed", fmt::format("{}", plan.seed), "--threads",
                                 fmt::format("{}", plan.threads), "--force", "--json", json.string()});
  return command;
}

std::vector<std::string> eval_command(const StudyPlan& plan, const std::string& model,
                                      const std::string& task, const fs::path& json,
                                      const fs::path& samples) {
  std::vector<std::string> command = {"eval", model, "--tasks", task};
  if (plan.data) command.insert(command.end(), {"--data", plan.data->string()});
  add_if(command, "--limit", plan.limit);
  if (task == "gsm8k") {
    add_if(command, "--shots", plan.shots);
    if (plan.same_examples) command.push_back("--same-examples");
  }
  if (task == "wikitext") add_if(command, "--window", plan.window);
  add_if(command, "--dtype", plan.dtype);
  add_if(command, "--device", plan.device);
  command.insert(command.end(),
                 {"--seed", fmt::format("{}", plan.seed), "--threads", fmt::format("{}", plan.threads),
                  "--json", json.string(), "--log-samples", samples.string()});
  return command;
}

std::vector<std::string> bench_command(const StudyPlan& plan, const std::string& model) {
  std::vector<std::string> command = {"bench", model,
                                      "-p",    fmt::format("{}", plan.bench_prompt),
                                      "-n",    fmt::format("{}", plan.bench_generate),
                                      "-r",    fmt::format("{}", plan.bench_repetitions),
                                      "-t",    fmt::format("{}", plan.threads),
                                      "-o",    "json"};
  add_if(command, "--dtype", plan.dtype);
  add_if(command, "--device", plan.device);
  return command;
}

std::vector<std::string> compare_command(const StudyPlan& plan, const std::string& base,
                                         const std::string& quantized, const fs::path& json) {
  std::vector<std::string> command = {"compare", base, quantized};
  if (plan.data) command.insert(command.end(), {"--data", plan.data->string()});
  command.insert(command.end(), {"--windows", fmt::format("{}", plan.kl_windows)});
  add_if(command, "--window", plan.kl_window);
  add_if(command, "--dtype", plan.dtype);
  add_if(command, "--device", plan.device);
  command.insert(command.end(), {"--threads", fmt::format("{}", plan.threads), "--json", json.string()});
  return command;
}

VariantFacts read_info(const fs::path& file) {
  return reading([&] {
    const std::string where = "info --json";
    const Json json = read_output(file, where);
    VariantFacts facts;
    facts.sha256 = json_get<std::string>(json, "sha256", where);
    facts.file_bytes = json_get<uint64_t>(json, "file_bytes", where);
    facts.bits_per_weight = json_get<double>(json, "bits_per_weight", where);
    facts.parameters = json_get<uint64_t>(json, "parameters", where);
    facts.parts = json_get_or<Json>(json, "parts", nullptr, where);
    return facts;
  });
}

VariantFacts read_quantization(const fs::path& model_dir, double seconds) {
  return reading([&] {
    const std::string where = kQuantizationReport;
    VariantFacts facts;
    facts.quantization_report = read_output(model_dir / kQuantizationReport, where);
    const Json totals = json_get<Json>(facts.quantization_report, "totals", where);
    facts.sha256 = json_get<std::string>(facts.quantization_report, "model_sha256", where);
    facts.file_bytes = json_get<uint64_t>(totals, "file_bytes", where);
    facts.bits_per_weight = json_get<double>(totals, "bits_per_weight", where);
    facts.parameters = json_get<uint64_t>(totals, "parameters", where);
    facts.quantize_seconds = json_get_or<double>(totals, "seconds", seconds, where);
    facts.parts = json_get_or<Json>(totals, "parts", nullptr, where);
    return facts;
  });
}

Cell read_evaluation(const std::string& task, const fs::path& file, const fs::path& samples) {
  return reading([&] {
    const std::string where = "eval --json";
    const Json json = read_output(file, where);
    const Json results = json_get<Json>(json, "results", where);
    if (!results.is_array() || results.size() != 1) fail("{}: 'results' is not a list of one", where);
    Cell cell;
    cell.result = task_result_from_json(results[0], where);
    if (cell.result->task != task) fail("{}: result of '{}', not of '{}'", where, cell.result->task, task);
    cell.memory = memory_from_json(json_get<Json>(json, "memory_bytes", where), where);
    if (!fs::exists(samples)) fail("--log-samples: nothing was written");
    size_t line = 0;
    for (const Json& sample : read_json_lines(samples)) {
      cell.result->samples.push_back(sample_from_json(sample, fmt::format("--log-samples line {}", ++line)));
    }
    return cell;
  });
}

Cell read_bench(std::string_view output) {
  return reading([&] {
    const std::string where = "bench -o json";
    Cell cell;
    cell.bench = parse_json(output, where);
    if (!cell.bench.is_array() || cell.bench.empty()) fail("{}: not a list of tests", where);
    for (const Json& test : cell.bench) {
      json_get<std::string>(test, "test", where);
      const MemoryBytes memory = memory_from_json(json_get<Json>(test, "memory_bytes", where), where);
      if (!cell.memory || memory.peak_rss > cell.memory->peak_rss) cell.memory = memory;
    }
    return cell;
  });
}

Cell read_distance(const fs::path& file) {
  return reading([&] {
    const std::string where = "compare --json";
    Cell cell;
    cell.distance = read_output(file, where);
    const double mean = number_from_json(json_get<Json>(cell.distance, "kl", where), "mean", where);
    if (!std::isfinite(mean)) fail("{}: no finite KL: the models yield NaN or infinity", where);
    number_from_json(cell.distance, "top1_agreement", where);
    for (const char* path : {"base", "quant"}) cell.distance.erase(path);  // of this machine
    return cell;
  });
}

double quantization_peak(const VariantFacts& facts) {
  const Json& report = facts.quantization_report;
  const Json totals = report.is_object() ? report.value("totals", Json::object()) : Json::object();
  return json_get_or<double>(totals, "peak_rss", 0, kQuantizationReport);
}

bool is_complete_model(const fs::path& model_dir, const Json& report) {
  if (!fs::is_regular_file(model_dir / kQuantizationReport)) return false;
  try {
    return read_json_file(model_dir / kQuantizationReport) == report;
  } catch (const Error&) {
    return false;  // damaged: to be made again
  }
}

}  // namespace nibble
