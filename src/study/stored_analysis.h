// What `nibble analyze` found, in the database of a study.
#pragma once

#include <string>

#include "study/store.h"

namespace nibble {

// The model of the study whose baseline has these weights. Throws Error, in `where`'s name, when there is
// none: an analysis of other weights says nothing of what was measured.
std::string model_with_weights(const Store& store, const std::string& sha256, const std::string& where);

// Puts the JSON of `nibble analyze --out` into the database, in place of an older one, and returns the
// model's name. Throws Error when it is damaged, does not name its weights, or is of none of the study's
// models.
std::string add_analysis(Store& store, const Json& analysis, const std::string& where);

}  // namespace nibble
