// The commands a study runs, and what it reads of their outputs (docs/results.md).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "study/plan.h"
#include "study/store.h"

namespace nibble {

// A name for files: of letters, digits, '.', '_' and '-'; two variants never share one.
std::string file_name(const Variant& variant);

// A child ended well, yet its output is not what it should be.
class OutputError : public Error {
 public:
  using Error::Error;
};

std::vector<std::string> info_command(const std::string& model, const std::filesystem::path& json);
std::vector<std::string> quantize_command(const StudyPlan& plan, const Variant& variant,
                                          const std::filesystem::path& out,
                                          const std::filesystem::path& json);
std::vector<std::string> eval_command(const StudyPlan& plan, const std::string& model,
                                      const std::string& task, const std::filesystem::path& json,
                                      const std::filesystem::path& samples);
std::vector<std::string> bench_command(const StudyPlan& plan, const std::string& model);
std::vector<std::string> compare_command(const StudyPlan& plan, const std::string& base,
                                         const std::string& quantized, const std::filesystem::path& json);

// All throw OutputError.
VariantFacts read_info(const std::filesystem::path& json);
// `seconds`: wall time, for a report that does not say.
VariantFacts read_quantization(const std::filesystem::path& model_dir, double seconds);
// Result with samples, and memory; variant and status are the caller's.
Cell read_evaluation(const std::string& task, const std::filesystem::path& json,
                     const std::filesystem::path& samples);
Cell read_bench(std::string_view output);
Cell read_distance(const std::filesystem::path& json);

// Bytes, as the stored report says; 0 where it does not.
double quantization_peak(const VariantFacts& facts);

// The directory holds the quantized model whose report this is.
bool is_complete_model(const std::filesystem::path& model_dir, const Json& report);

}  // namespace nibble
