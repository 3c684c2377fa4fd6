// Options that every verb has, and what they mean to the library.
#pragma once

#include <string>

#include "arguments.h"
#include "base/json.h"
#include "io/checkpoint.h"
#include "model/session.h"

namespace nibble::app {

struct GlobalOptions {
  int threads = 0;                 // 0: all cores of this process
  bool pin = false;                // each thread on a processor of its own
  std::string device = "cpu";      // "cpu", "cuda"
  std::string dtype = "bfloat16";  // of dense arithmetic, of the cache and of dequantized GGUF tensors
  std::string activations;         // of packed linears: "int8", "f32"; empty: as dtype suggests
  std::string cache_type;          // "f32", "f16", "int8"; empty: as dtype suggests
  std::string json_file;           // --json FILE; empty: standard output
  Argument json{nullptr};

  bool wants_json() const { return json.given(); }
  int thread_count() const;
  Precision precision() const;
  GgufDType gguf_dtype() const;
};

void add_global_options(Arguments& verb, GlobalOptions& global);

// What a verb found out: `text` on standard output; with --json instead the JSON, with --json FILE both.
void write_output(const GlobalOptions& global, const OrderedJson& json, const std::string& text);

// JSON as files and pipes get it: indented, UTF-8 repaired where a model left a character unfinished.
std::string json_text(const OrderedJson& json);

// Writes to standard output; throws Error when that fails (a closed pipe, a full disk).
void print(std::string_view text);

}  // namespace nibble::app
