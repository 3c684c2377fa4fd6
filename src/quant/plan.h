// Which method, bits and group size for which linear.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/name_pattern.h"
#include "tensor/packed.h"

namespace nibble {

struct LayerPlan {
  std::string method = "gptq+ff";  // why: docs/quantizers.md
  int bits = 4;                    // 2, 3, 4, 6, 8; 16 leaves the layer as it is
  int group_size = 64;             // a multiple of 16; 0: the whole row
  bool symmetric = false;
  int scale_bits =
      16;  // of a scale: 16, fp16; 8, bytes (tensor/packed.h), which symmetric layers cannot have

  PackedFormat format(int64_t n, int64_t k) const;
};

// Every linear takes `base`, changed by the rules whose pattern is found in its name, in order. What a rule
// makes symmetric gets scales of 16 bits with it.
struct Plan {
  struct Rule {
    // Throws Error naming `where` when it is no regular expression (io/name_pattern.h).
    explicit Rule(std::string_view pattern, std::string_view where = "a rule");
    std::string pattern;  // found anywhere in the name
    NamePattern name;
    std::optional<std::string> method;
    std::optional<int> bits, group_size, scale_bits;
    std::optional<bool> symmetric;
  };
  LayerPlan base;
  std::vector<Rule> rules;

  LayerPlan layer(const std::string& name) const;  // of the linear
  void validate() const;                           // throws UsageError
};

// Rules from a TOML file:
//   [[rule]]
//   pattern = "mlp.down_proj"
//   bits = 8
//   group_size = 32
// Throws Error naming the file and line.
std::vector<Plan::Rule> read_plan_rules(const std::filesystem::path& file);

}  // namespace nibble
