// JSON lines, as task files and logged samples are.
#include "base/json.h"
#include "eval/result.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const fuzz::MemoryFile file(fuzz::text_of(data, size));
    for (const Json& line : read_json_lines(file.path())) to_json(sample_from_json(line, "line"));
  });
}
