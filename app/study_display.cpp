#include "study_display.h"

#include <fmt/format.h>

#include "base/progress.h"
#include "report/format.h"

namespace nibble::app {
namespace {

constexpr auto kLineInterval = std::chrono::seconds(10);
constexpr size_t kWidth = 118;

std::string head(const StudyStep& step) {
  return fmt::format("[{}/{}] {} {}", step.cell, step.cells, step.variant.name(), step.work);
}

std::string time_left(const StudyStep& step) {
  return step.seconds_left ? fmt::format(" (about {} left)", duration_text(*step.seconds_left)) : "";
}

std::string score_text(const Cell& cell) {
  if (cell.distance.is_object()) {
    const Json kl = json_get<Json>(cell.distance, "kl", kDistance);
    return fmt::format(", KL {}", report::three_digits(number_from_json(kl, "mean", kDistance)));
  }
  if (!cell.result) return "";
  const auto metric = cell.result->metrics.find(cell.result->primary);
  if (metric == cell.result->metrics.end()) return "";
  return fmt::format(", {} {}", metric->first, report::three_digits(metric->second.value));
}

}  // namespace

StudyDisplay::StudyDisplay() : terminal_(is_terminal(stderr)) {}

StudyDisplay::~StudyDisplay() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void StudyDisplay::say(const std::string& line) {
  fmt::print(stderr, "{}{}\n", shown_ ? "\r\033[K" : "", line);
  std::fflush(stderr);
  shown_ = false;
  last_line_ = std::chrono::steady_clock::now();
}

void StudyDisplay::show(const StudyStep& step, std::string_view detail) {
  const std::string line = detail.empty() ? head(step) + " …" + time_left(step)
                                          : head(step) + ": " + std::string(detail) + time_left(step);
  if (terminal_) {
    fmt::print(stderr, "\r{}\033[K", line.substr(0, kWidth));
    std::fflush(stderr);
    shown_ = true;
  } else if (std::chrono::steady_clock::now() - last_line_ >= kLineInterval) {
    say(line);
  }
}

void StudyDisplay::step_started(const StudyStep& step) { show(step, ""); }
void StudyDisplay::progress(const StudyStep& step, std::string_view line) { show(step, line); }

void StudyDisplay::step_done(const StudyStep& step, double seconds) {
  if (step.work == "quantize") say(fmt::format("{}: done in {}", head(step), duration_text(seconds)));
}

void StudyDisplay::step_failed(const StudyStep& step, const std::string& reason) {
  say(fmt::format("{}: failed: {}", head(step), reason));
}

void StudyDisplay::cell_done(const StudyStep& step, const Cell& cell) {
  if (cell.status == CellStatus::kDone)
    say(fmt::format("{}: done in {}{}{}", head(step), duration_text(cell.seconds), score_text(cell),
                    time_left(step)));
}

}  // namespace nibble::app
