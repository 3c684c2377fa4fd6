#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace nibble {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kLineInterval = std::chrono::seconds(5);

size_t terminal_width(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

bool is_terminal(std::FILE* out) { return ::isatty(::fileno(out)) == 1; }

std::string duration_text(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

Progress::Progress(std::FILE* out, std::string label, std::string unit)
    : out_(out), label_(std::move(label)), unit_(std::move(unit)), terminal_(is_terminal(out)) {}

Progress::~Progress() { finish(); }

void Progress::update(size_t done, size_t total) {
  done_ = done;
  total_ = total;
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? Clock::duration(kTerminalInterval) : Clock::duration(kLineInterval))) return;
  last_ = now;
  draw();
}

std::string Progress::line() const {
  std::string text = fmt::format("{}: {} of {} {}", label_, done_, total_, unit_);
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const std::string note = note_.empty() ? "" : ", " + note_;
  if (done_ == 0 || seconds <= 0) return text + note;
  const double rate = static_cast<double>(done_) / seconds;
  text += rate >= 10 ? fmt::format(", {:.0f}/s", rate) : fmt::format(", {:.2g}/s", rate);
  if (done_ < total_)
    text += fmt::format(", {} left", duration_text(static_cast<double>(total_ - done_) / rate));
  return text + note;
}

void Progress::draw() {
  if (!terminal_) {
    std::fprintf(out_, "%s\n", line().c_str());
    std::fflush(out_);
    return;
  }
  constexpr size_t kCells = 24;
  const size_t full = total_ > 0 ? std::min(kCells, kCells * done_ / total_) : 0;
  std::string text = "[" + std::string(full, '#') + std::string(kCells - full, '.') + "] " + line();
  text = text.substr(0, terminal_width(out_) - 1);
  std::fprintf(out_, "\r%s\033[K", text.c_str());
  std::fflush(out_);
  drawn_ = true;
}

void Progress::finish() {
  if (!drawn_) return;
  std::fprintf(out_, "\r\033[K");
  std::fflush(out_);
  drawn_ = false;
}

}  // namespace nibble
