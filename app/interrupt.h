// Ctrl-C in long verbs: work stops where it may stop, files that are being written are removed.
#pragma once

namespace nibble::app {

// Thrown where work may stop; no Error, so that nothing takes it for a failure. main() catches it.
struct Interrupted {
  int signal = 0;
};

// While one exists, SIGINT, SIGTERM and SIGHUP are noted for check(); the second one ends the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static void check();     // throws Interrupted once a signal came
  static bool received();  // whether one came
};

}  // namespace nibble::app
