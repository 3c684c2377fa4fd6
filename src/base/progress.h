// Progress of long work: a bar with rate and time left on a terminal, plain lines now and then elsewhere.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>

namespace nibble {

bool is_terminal(std::FILE* out);

// "12 s", "3 min 20 s", "2 h 5 min".
std::string duration_text(double seconds);

class Progress {
 public:
  // `unit` is what is counted: "rows".
  Progress(std::FILE* out, std::string label, std::string unit);
  ~Progress();  // ends as finish() does
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(size_t done, size_t total);
  void note(std::string text) { note_ = std::move(text); }  // stands at the end of the line from then on
  void finish();                                            // takes the bar off the terminal

  // The line as it stands, without the bar: "boolq: 120 of 400 rows, 31/s, 9 s left".
  std::string line() const;

 private:
  using Clock = std::chrono::steady_clock;
  void draw();

  std::FILE* out_;
  std::string label_, unit_, note_;
  const bool terminal_;
  bool drawn_ = false;
  size_t done_ = 0, total_ = 0;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace nibble
