#include "train/unfinished_training.h"

#include <algorithm>

#include "base/file.h"
#include "io/safetensors.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr double kSeconds = 30, kCostShare = 0.05;  // between two states: at least so long, at most so dear
constexpr size_t kLongest = 40;                     // of a value that a person can read

// "--rank 8, now 16", one for each setting that differs.
std::string differences(const Json& begun, const Json& now) {
  std::string text;
  for (const auto& [name, value] : now.items()) {
    const Json before = begun.contains(name) ? begun.at(name) : Json();
    if (before == value) continue;
    const std::string was = before.dump(), is = value.dump();
    text += text.empty() ? "" : "; ";
    text += was.size() > kLongest || is.size() > kLongest ? fmt::format("another {}", name)
                                                          : fmt::format("{} {}, now {}", name, was, is);
  }
  return text;
}

}  // namespace

UnfinishedTraining::UnfinishedTraining(KeepOptions options, const std::string& name, OrderedJson settings)
    : options_(std::move(options)),
      file_(options_.folder / (name + ".safetensors")),
      settings_(std::move(settings)) {
  settings_["NIBBLE_ISA"] = kernels().name;
  settings_["version"] = options_.version;
}

std::optional<Json> UnfinishedTraining::load(const StateArrays& arrays) const {
  if (options_.folder.empty() || !fs::exists(file_)) return std::nullopt;
  const std::string where = file_.string();
  const SafetensorsFile stored = open_safetensors(file_);
  const auto text = [&](const char* key) {
    const auto found = stored.metadata.find(key);
    if (found == stored.metadata.end()) fail("{}: no '{}'; remove it to begin anew", where, key);
    return parse_json(found->second, where);
  };
  const std::string other = differences(text("settings"), Json(settings_));
  if (!other.empty()) {
    if (options_.force) return std::nullopt;
    fail("{}: begun with {}; the same options go on with it, --force begins anew", where, other);
  }
  for (const auto& [name, values] : arrays) {
    const auto found = stored.tensors.find(name);
    if (found == stored.tensors.end() || found->second.dtype != DType::kF32 ||
        found->second.elements() != static_cast<int64_t>(values->size()))
      fail("{}: '{}' is missing or of another size; remove the file to begin anew", where, name);
    std::copy_n(found->second.as<float>(), values->size(), values->data());
  }
  return text("progress");
}

void UnfinishedTraining::save(const StateArrays& arrays, const OrderedJson& progress) {
  if (options_.folder.empty()) return;
  const Stopwatch watch;
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const auto& [name, values] : arrays)
    tensors.emplace_back(name, TensorView{DType::kF32,
                                          {static_cast<int64_t>(values->size())},
                                          reinterpret_cast<const std::byte*>(values->data())});
  make_directory(options_.folder);
  write_safetensors(file_, tensors, {{"settings", settings_.dump()}, {"progress", progress.dump()}});
  cost_ = watch.seconds();
  since_ = Stopwatch();
}

bool UnfinishedTraining::is_due(int step) const {
  if (options_.folder.empty()) return false;
  if (options_.every > 0) return step % options_.every == 0;
  return since_.seconds() > std::max(kSeconds, cost_ / kCostShare);
}

}  // namespace nibble
