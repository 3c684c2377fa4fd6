#include "io/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "io/quote_name.h"

namespace nibble {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMatchLimit = 1'000'000, kHeapLimit = 16 << 10;  // steps, KiB

}  // namespace

NamePattern::NamePattern(std::string_view pattern, std::string_view where, At at) : where_(where) {
  if (pattern.size() > kMaxPatternBytes)
    fail("{}: a pattern of {} bytes (at most {})", where, pattern.size(), kMaxPatternBytes);
  int error = 0;
  PCRE2_SIZE position = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            (at == At::kStart ? PCRE2_ANCHORED : 0u) | PCRE2_NEVER_BACKSLASH_C, &error,
                            &position, nullptr),
              pcre2_code_free);
  if (!code_) fail("{}: {} is not a regular expression (at byte {})", where, quote_name(pattern), position);
}

bool NamePattern::matches(std::string_view name) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (!data || !context) fail("no memory to match a regular expression");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimit);
  const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                                 data.get(), context.get());
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  fail("{}: a pattern takes too long on the name {}", where_, quote_name(name));
}

}  // namespace nibble
