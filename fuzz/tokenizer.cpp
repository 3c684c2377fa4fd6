// tokenizer.json, and a text in the tokenizer that it gives.
#include "text/tokenizer.h"

#include "base/json.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const Tokenizer tokenizer =
        Tokenizer::from_json(parse_json(fuzz::text_of(data, size), "tokenizer.json"), "tokenizer.json");
    tokenizer.decode(tokenizer.encode("The 2 cats' caf\u00e9\n  <|im_end|> \xff", true));
  });
}
