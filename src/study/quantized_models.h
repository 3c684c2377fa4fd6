// Models that were quantized before the study, by nibble or by others: what they are, and what of.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "study/plan.h"

namespace nibble {

// Moves the quantized ones among plan.models (directories of GPTQ, AWQ, compressed-tensors and nibble) to
// plan.quantized, with method, bits and group size as most of their linears have them. Each is paired with
// the one unquantized model of the plan that has its shapes, embedding and last norm, which quantizers leave
// as they are; none where there is no such model. What the plan says already ('of') stands. `locate` finds a
// path by a name; a model that it does not find stays where it is. Throws Error for a quantized model that
// cannot be opened; UsageError where several models fit, or where the plan says what the files do not.
void describe_quantized(StudyPlan& plan,
                        const std::function<std::filesystem::path(const std::string&)>& locate);

// "awq 4-bit g32, quantized before: measured as it is, against llama-mini", for a person.
std::string description(const QuantizedModel& quantized);

}  // namespace nibble
