// Runs a program as a child: its messages go to a log, a Ctrl-C reaches it, and it never outlives us.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// While one exists, SIGINT, SIGTERM and SIGHUP are noted instead of ending this process; signals that
// were ignored before (nohup) stay so. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int received() const;  // the last signal; 0: none
  int count() const;     // how many so far
  int fd() const;        // becomes readable when a signal comes
};

struct ChildCommand {
  std::filesystem::path program;        // what is executed
  std::vector<std::string> arguments;   // without the program's own name
  std::filesystem::path log;            // gets the command and all of its stderr; replaced
  size_t max_output = size_t{1} << 26;  // bytes of stdout kept; more is a failure
};

struct ChildResult {
  int exit_code = 0;
  int signal = 0;              // that ended it; 0: none
  bool out_of_memory = false;  // the kernel killed something for memory meanwhile (signal 9)
  double seconds = 0;          // wall time
  std::string output;          // stdout
  std::string last_line;       // of stderr, not blank
  bool ok() const { return exit_code == 0 && signal == 0; }
  // One line why it failed: the last line of stderr, or the signal in words.
  std::string reason() const;
};

// Waits for the child; `on_line` gets its stderr line by line. A signal noted by `stop` goes on to the
// child and all that it started, a second one kills them. Throws Error when the program cannot be
// started or the log not be written; the child is dead then, too.
ChildResult run_child(const ChildCommand& command, const StopSignals& stop,
                      const std::function<void(std::string_view)>& on_line);

}  // namespace nibble
