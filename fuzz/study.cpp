#include "input.h"
#include "study/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nibble;
  return fuzz::check([&] {
    const StudyPlan plan = resolve_plan(parse_study(fuzz::text_of(data, size), "study.toml"), {});
    // What it writes is what it reads.
    const std::string text = to_toml(plan);
    if (to_toml(resolve_plan(parse_study(text, "again"), {})) != text) std::abort();
  });
}
