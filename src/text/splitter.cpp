#include "text/splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace nibble {
namespace {

constexpr size_t kMaxPatternBytes = size_t{1} << 16;

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

MatchState::MatchState()
    : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  if (!data_ || !context_) fail("no memory to match a regular expression");
  pcre2_set_heap_limit(context_, uint32_t{1} << 20);  // KiB
}

MatchState::~MatchState() {
  pcre2_match_context_free(context_);
  pcre2_match_data_free(data_);
}

RegexSplitter RegexSplitter::from_pattern(std::string_view oniguruma, std::string_view where) {
  return RegexSplitter(pcre2_pattern(oniguruma, where), PCRE2_MULTILINE, where);
}

RegexSplitter RegexSplitter::from_literal(std::string_view text, std::string_view where) {
  return RegexSplitter(text, PCRE2_LITERAL, where);
}

RegexSplitter::RegexSplitter(std::string_view pattern, unsigned options, std::string_view where)
    : where_(where) {
  if (pattern.size() > kMaxPatternBytes) {
    fail("{}: a split pattern of {} bytes (at most {})", where, pattern.size(), kMaxPatternBytes);
  }
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) fail("no memory to compile a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  if (!(options & PCRE2_LITERAL)) options |= PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE at = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options | PCRE2_UTF,
                            &error, &at, context.get()),
              pcre2_code_free);
  if (!code_) fail("{}: split pattern: {} at byte {}: {}", where, message_of(error), at, pattern);
  // Where JIT cannot be had, pcre2_match interprets.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

bool RegexSplitter::search(std::string_view text, size_t from, MatchState& state, Match& match) const {
  // A run of one class may be tried once a character; far beyond that it is backtracking gone wild.
  const uint64_t limit = std::max<uint64_t>(10'000'000, 64 * static_cast<uint64_t>(text.size()));
  pcre2_set_match_limit(state.context_, static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_.get(), subject, text.size(), from, options | PCRE2_NO_UTF_CHECK, state.data_,
                       state.context_);
  };
  int result = run(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT)
    result = run(PCRE2_NO_JIT);  // the interpreter's stack is the heap
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    fail("{}: the split pattern failed on a text of {} bytes: {}", where_, text.size(), message_of(result));
  }
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(state.data_);
  match = {found[0], found[1]};
  NIBBLE_CHECK(match.begin >= from && match.begin <= match.end && match.end <= text.size());
  return true;
}

size_t RegexSplitter::after_character(std::string_view text, size_t at) {
  return at + std::max<size_t>(1, first_code_point(text.substr(at)).size);
}

}  // namespace nibble
