#include "io/gguf.h"

namespace nibble {

Checkpoint open_gguf(const std::filesystem::path& path, GgufDType) {
  fail("{}: GGUF is not read yet", path.string());
}
Json read_gguf_tokenizer(const std::filesystem::path& path) {
  fail("{}: GGUF is not read yet", path.string());
}

}  // namespace nibble
