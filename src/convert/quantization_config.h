// `quantization_config` of an export's config.json, as other readers want it.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "model/model.h"

namespace nibble {

// The commonest bits and group size; symmetric only when all of them are.
PackedFormat common_format(const std::vector<const Linear*>& packed);

// dense: names of the linears that stay as they are; base: what holds where nothing else is said.
OrderedJson gptq_config(const std::vector<const Linear*>& packed, const std::vector<std::string>& dense,
                        bool v2, const PackedFormat& base);
OrderedJson awq_config(const std::vector<std::string>& dense, const PackedFormat& base);
OrderedJson compressed_tensors_config(const std::vector<const Linear*>& packed,
                                      const std::vector<std::string>& dense);

}  // namespace nibble
