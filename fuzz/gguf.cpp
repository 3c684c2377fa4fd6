#include "io/gguf.h"

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const fuzz::MemoryFile file(fuzz::text_of(data, size));
    open_gguf(file.path(), GgufDType::kBF16, true);
  });
}
