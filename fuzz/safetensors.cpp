#include "io/safetensors.h"

#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const fuzz::MemoryFile file(fuzz::text_of(data, size));
    const SafetensorsFile opened = open_safetensors(file.path());
    // Every byte that a view promises is there.
    volatile unsigned sum = 0;
    for (const auto& [name, tensor] : opened.tensors) {
      const auto* bytes = static_cast<const unsigned char*>(tensor.data);
      for (size_t i = 0; i < tensor.byte_size(); ++i) sum = sum + bytes[i];
    }
  });
}
