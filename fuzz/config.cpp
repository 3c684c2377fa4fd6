#include "model/config.h"

#include "base/json.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check(
      [&] { read_config(parse_json(fuzz::text_of(data, size), "config.json"), Json(), "config.json"); });
}
