#include "options.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "base/thread_pool.h"

namespace nibble::app {

int GlobalOptions::thread_count() const { return threads > 0 ? threads : available_threads(); }

Precision GlobalOptions::precision() const {
  const bool float32 = dtype == "float32";
  Precision precision;
  precision.bf16 = !float32;
  precision.cache = cache_type.empty()    ? (float32 ? CacheType::kF32 : CacheType::kF16)
                    : cache_type == "f32" ? CacheType::kF32
                    : cache_type == "f16" ? CacheType::kF16
                                          : CacheType::kI8;
  precision.device = device == "cuda" ? Device::kCuda : Device::kCpu;
  precision.int8 = activations.empty() ? !float32 : activations == "int8";
  return precision;
}

GgufDType GlobalOptions::gguf_dtype() const {
  return dtype == "float32" ? GgufDType::kF32 : GgufDType::kBF16;
}

void add_global_options(Arguments& verb, GlobalOptions& global) {
  const char* group = "Common options";
  verb.option("-t,--threads", global.threads, "threads; default: all cores of this process")
      .range(1, 1024)
      .group(group);
  verb.flag("--pin", global.pin, "keep each thread on a processor of its own").group(group);
  verb.option("--device", global.device, "cpu (default) or cuda: an NVIDIA GPU")
      .one_of({"cpu", "cuda"})
      .group(group);
  verb.option("--dtype", global.dtype, "float32 or bfloat16 (default): dense arithmetic and the cache")
      .one_of({"float32", "bfloat16"})
      .group(group);
  verb.option("--activations", global.activations,
              "int8 or f32: what 4-bit weights are multiplied with; default: int8, with --dtype float32 f32")
      .one_of({"int8", "f32"})
      .group(group);
  verb.option("--cache-type", global.cache_type,
              "f16, int8 or f32: keys and values; default: f16, with --dtype float32 f32")
      .one_of({"f32", "f16", "int8"})
      .group(group);
  global.json =
      verb.option("--json", global.json_file, "every number as JSON; without FILE to standard output")
          .type_name("[FILE]")
          .optional_value()
          .group(group);
}

std::string json_text(const OrderedJson& json) {
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

void print(std::string_view text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written) fail("standard output: {}", std::strerror(errno));
}

void write_output(const GlobalOptions& global, const OrderedJson& json, const std::string& text) {
  if (global.wants_json() && global.json_file.empty()) return print(json_text(json));
  if (global.wants_json()) write_file_atomically(global.json_file, json_text(json));
  print(text);
}

}  // namespace nibble::app
