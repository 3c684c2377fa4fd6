// results.db: everything a study measured, in SQLite. The schema is in docs/results.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "eval/result.h"

namespace nibble {

// Cells that are no tasks: a variant's speed, and its distance from its baseline.
inline constexpr const char* kBench = "bench";
inline constexpr const char* kDistance = "kl";
inline bool is_task(std::string_view name) { return name != kBench && name != kDistance; }

// One row of the study: a model as it is (method "baseline") or quantized one way.
struct Variant {
  std::string model;   // as the user named it
  std::string method;  // "baseline", "gptq", "gsq", "rtn"; of a model quantized before: as it says, "awq"
  int bits = 16;
  int group_size = 0;  // 0: whole row, or baseline
  // Of a model that was quantized before the study: as the user named it. `model` is then the unquantized one
  // that it is compared with, or the same name where none is known. Empty: quantized by the study.
  std::string source = {};
  // "llama-mini gptq-4bit-g64", "llama-mini baseline", "llama-mini awq-4bit-g32 (org/llama-mini-awq)"
  std::string name() const;
  bool is_baseline() const { return method == "baseline"; }
  bool is_made_here() const { return !is_baseline() && source.empty(); }
  auto operator<=>(const Variant&) const = default;
};

// What is known of a variant besides its scores.
struct VariantFacts {
  std::string sha256;  // of its weights
  uint64_t file_bytes = 0;
  double bits_per_weight = 0;  // everything included
  uint64_t parameters = 0;
  double quantize_seconds = 0;
  Json quantization_report;  // null for what the study did not quantize
  Json parts;  // {"body", "embedding", "head", "other"}: {"parameters", "bytes"} in memory; null: not stored
};

enum class CellStatus { kPlanned, kDone, kFailed };

// One measurement: a variant on a task ("boolq", …), its speed or its distance from its baseline.
struct Cell {
  Variant variant;
  std::string task;  // or kBench, kDistance
  CellStatus status = CellStatus::kPlanned;
  std::string reason;                 // of a failure, one line
  double seconds = 0;                 // wall time of its process
  std::optional<TaskResult> result;   // tasks; samples only when loaded with them
  std::optional<MemoryBytes> memory;  // of its own process
  Json bench;                         // kBench: the array of `bench -o json`; else null
  Json distance;                      // kDistance: the object of `compare --json`; else null
};

class Store {
 public:
  // Opens or creates; an older schema is migrated, a newer one refused. `read_only` never creates nor
  // changes the file: an older schema is migrated in a copy in memory.
  static Store open(const std::filesystem::path& file, bool read_only = false);
  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  void set_meta(const std::string& key,
                const std::string& value);  // "version", "host", "threads", "study_toml"
  std::optional<std::string> meta(const std::string& key) const;

  // Adds cells that are not there yet, in this order; keeps what is known of the others.
  void plan(const std::vector<Cell>& cells);
  void set_facts(const Variant& variant, const VariantFacts& facts);
  std::optional<VariantFacts> facts(const Variant& variant) const;
  // How sensitive a model's layers are: the JSON of `nibble analyze --out`; null: not analysed.
  void set_analysis(const std::string& model, const Json& analysis);
  Json analysis(const std::string& model) const;
  // One transaction: a crash leaves the cell as it was before.
  void save(const Cell& cell);

  std::vector<Cell> cells(bool with_samples = false) const;  // in planned order
  std::vector<Sample> samples(const Variant& variant, const std::string& task) const;
  // One of them, by its place in that list; none where there is no such sample.
  std::optional<Sample> sample(const Variant& variant, const std::string& task, size_t position) const;

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
