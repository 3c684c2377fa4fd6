// Cuts text at the matches of a regular expression (PCRE2 with UTF, UCP and JIT).
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace nibble {

// What one thread needs to match; reused from text to text.
class MatchState {
 public:
  MatchState();
  ~MatchState();
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

 private:
  friend class RegexSplitter;
  pcre2_real_match_data_8* data_;
  pcre2_real_match_context_8* context_;
};

class RegexSplitter {
 public:
  // A pattern as Hugging Face writes it (Oniguruma), or literal text. `where` names it in errors.
  static RegexSplitter from_pattern(std::string_view oniguruma, std::string_view where);
  static RegexSplitter from_literal(std::string_view text, std::string_view where);

  // Calls f(piece) for each match and each gap between matches, in order, never for an empty one
  // ("Isolated" of Hugging Face). `text` must be valid UTF-8. Throws Error when matching runs
  // past its limits, which a pattern with catastrophic backtracking does.
  template <typename F>
  void split(std::string_view text, MatchState& state, F&& f) const {
    size_t done = 0, from = 0;
    size_t last_end = std::string_view::npos;
    Match match;
    while (from <= text.size() && search(text, from, state, match)) {
      if (match.begin == match.end && match.end == last_end) {  // no second empty match at one place
        from = after_character(text, from);
        continue;
      }
      if (match.begin > done) f(text.substr(done, match.begin - done));
      if (match.end > match.begin) f(text.substr(match.begin, match.end - match.begin));
      done = from = last_end = match.end;
    }
    if (done < text.size()) f(text.substr(done));
  }

 private:
  struct Match {
    size_t begin, end;
  };
  RegexSplitter(std::string_view pattern, unsigned options, std::string_view where);
  bool search(std::string_view text, size_t from, MatchState& state, Match& match) const;
  static size_t after_character(std::string_view text, size_t at);

  std::shared_ptr<pcre2_real_code_8> code_;
  std::string where_;
};

}  // namespace nibble
