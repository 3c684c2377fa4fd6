#include "io/safetensors.h"

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const fuzz::MemoryFile file(fuzz::text_of(data, size));
    const SafetensorsFile opened = open_safetensors(file.path());
    // Every byte that a view promises is there.
    volatile int sum = 0;
    for (const auto& [name, tensor] : opened.tensors) {
      for (size_t i = 0; i < tensor.bytes(); ++i) sum = sum + static_cast<int>(tensor.data[i]);
    }
  });
}
