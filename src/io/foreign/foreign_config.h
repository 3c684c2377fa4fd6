// The quantization_config of other tools: which method, and the format of every linear.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "io/foreign/foreign_linear.h"
#include "io/name_pattern.h"

namespace nibble {

enum class ForeignMethod { kGptq, kAwq, kCompressedTensors };

class ForeignConfig {
 public:
  // Throws Error, naming what is read here, for another quant_method or a form of it that is not read.
  ForeignConfig(const Json& quantization_config, std::string where);

  ForeignMethod method() const { return method_; }
  const char* method_name() const;                        // "gptq", "awq", "compressed-tensors"
  const ForeignFormat& base() const { return base_; }     // of linears without a rule of their own
  ForeignFormat format(const std::string& linear) const;  // throws Error when it says nothing of it
  bool says_gptq_v2() const { return gptq_v2_; }          // by its label, which may be wrong
  bool made_by_gptqmodel() const { return gptqmodel_; }

 private:
  struct Rule {
    std::optional<NamePattern> pattern;  // none: the exact name
    std::string name;
    bool excluded = false;  // "-:" of GPTQModel
    ForeignFormat format;
    bool whole_class = false;  // "Linear" of compressed-tensors: any linear, after the names
  };
  void read_gptq(const Json& config);
  void read_awq(const Json& config);
  void read_compressed_tensors(const Json& config);
  ForeignFormat read_format(const Json& object, const char* bits, const ForeignFormat& otherwise) const;

  std::string where_;
  ForeignMethod method_ = ForeignMethod::kGptq;
  ForeignFormat base_;
  std::vector<Rule> rules_;
  bool gptq_v2_ = false, gptqmodel_ = false;
};

}  // namespace nibble
