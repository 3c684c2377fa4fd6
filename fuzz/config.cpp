#include "model/config.h"

#include "base/json.h"
#include "input.h"
#include "io/foreign/foreign_config.h"
#include "io/foreign/repack.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const Json config = parse_json(fuzz::text_of(data, size), "config.json");
    if (config.is_object() && has_foreign_quantization(config)) {
      const ForeignConfig foreign(config.at("quantization_config"), "config.json");
      for (const char* linear : {"model.layers.0.self_attn.q_proj", "model.layers.31.mlp.down_proj"})
        foreign.format(linear);
    }
    read_config(config, Json(), "config.json");
  });
}
