#include "io/safetensors.h"

#include <algorithm>
#include <span>

#include "input.h"

namespace {

bool holds(std::span<const std::byte> whole, const nibble::TensorView& tensor) {
  return tensor.data >= whole.data() && tensor.bytes() <= whole.size() &&
         tensor.data <= whole.data() + (whole.size() - tensor.bytes());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const fuzz::MemoryFile file(fuzz::text_of(data, size));
    const SafetensorsFile opened = open_safetensors(file.path());
    // Every byte that a view promises is there. Address sanitizer does not see where a mapping ends, and
    // reading them all, of tensors that may overlap in a copy of each, would be most of the time.
    for (const auto& named : opened.tensors) {
      const TensorView& tensor = named.second;
      const auto in = [&](const auto& buffer) { return holds({buffer->data(), buffer->size()}, tensor); };
      if (tensor.bytes() > 0 && !holds(opened.file->bytes(), tensor) &&
          std::ranges::none_of(opened.buffers, in))
        std::abort();
    }
  });
}
