// What every JSON of a report is made of.
#pragma once

#include "base/json.h"
#include "eval/result.h"
#include "study/store.h"

namespace nibble::report {

inline OrderedJson number(double value) { return json_number(value); }

// Which variant an object is about.
inline OrderedJson id_of(const Variant& v) {
  OrderedJson json{{"model", v.model}, {"method", v.method}, {"bits", v.bits}, {"group_size", v.group_size}};
  if (!v.source.empty()) json["source"] = v.source;
  return json;
}

}  // namespace nibble::report
