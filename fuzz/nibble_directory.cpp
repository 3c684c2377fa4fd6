// A directory of a quantized model: config.json, a zero byte, model.safetensors.
#include "input.h"
#include "io/checkpoint.h"
#include "io/test_files.h"
#include "model/model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  static const TemporaryDirectory dir;
  return fuzz::check([&] {
    const std::string_view all = fuzz::text_of(data, size);
    const size_t end = std::min(all.find('\0'), all.size());
    std::filesystem::remove(dir / "model.safetensors");
    write_text(dir / "config.json", all.substr(0, end));
    write_text(dir / "model.safetensors", end < all.size() ? all.substr(end + 1) : "");
    const Model model(open_checkpoint(dir.path(), GgufDType::kBF16, false));
  });
}
