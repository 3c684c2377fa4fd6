// What a running study shows on standard error: one line that changes on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "study/runner.h"

namespace nibble::app {

class StudyDisplay : public StudyObserver {
 public:
  StudyDisplay();
  ~StudyDisplay() override;
  void step_started(const StudyStep& step) override;
  void progress(const StudyStep& step, std::string_view line) override;
  void step_done(const StudyStep& step, double seconds) override;
  void step_failed(const StudyStep& step, const std::string& reason) override;
  void cell_done(const StudyStep& step, const Cell& cell) override;

 private:
  void show(const StudyStep& step, std::string_view detail);
  void say(const std::string& line);  // a line that stays

  const bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_line_{};
};

}  // namespace nibble::app
