// The hub's answer to a pull: which files a repository has.
#include "hub/pull.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    // A file is kept under its own name, in one folder.
    for (const HubFile& file : read_listing(fuzz::text_of(data, size), "listing").files) {
      if (file.name.empty() || file.name == ".." || file.name.find_first_of("/\\\n") != std::string::npos)
        std::abort();
    }
  });
}
