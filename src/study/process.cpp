#include "study/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace nibble {
namespace {

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP};
constexpr int kLookAgainMs = 100;  // how late an exit is seen when a grandchild keeps the pipes open
constexpr size_t kMaxLine = 4096;

std::atomic<int> stop_signal{0}, stop_count{0};
int stop_pipe[2] = {-1, -1};
struct sigaction old_actions[std::size(kStopSignals)];

void note_stop(int signal) {
  const int saved = errno;
  stop_signal.store(signal);
  stop_count.fetch_add(1);
  [[maybe_unused]] const ssize_t written = ::write(stop_pipe[1], "", 1);  // full: it is readable anyway
  errno = saved;
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { close(); }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

struct Pipe {
  Fd read, write;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe: {}", std::strerror(errno));
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
};

// How often the kernel has killed a process for memory since boot; 0 where it does not say.
long oom_kills() {
  std::ifstream vmstat("/proc/vmstat");
  std::string name;
  long value = 0;
  while (vmstat >> name >> value) {
    if (name == "oom_kill") return value;
  }
  return 0;
}

void write_all(int fd, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: write failed: {}", path.string(), std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(n));
  }
}

// Cuts a stream into lines (ended by \n or \r), control characters made blanks.
class LineSplitter {
 public:
  explicit LineSplitter(const std::function<void(std::string_view)>& on_line) : on_line_(on_line) {}
  void add(std::string_view bytes) {
    for (const char c : bytes) {
      if (c == '\n' || c == '\r') {
        finish();
      } else if (line_.size() < kMaxLine) {
        line_ += static_cast<unsigned char>(c) < 32 ? ' ' : c;
      }
    }
  }
  void finish() {
    const size_t begin = line_.find_first_not_of(' ');
    if (begin != std::string::npos) {
      last_ = line_.substr(begin, line_.find_last_not_of(' ') + 1 - begin);
      if (on_line_) on_line_(last_);
    }
    line_.clear();
  }
  const std::string& last() const { return last_; }

 private:
  const std::function<void(std::string_view)>& on_line_;
  std::string line_, last_;
};

// A started child; killed with all that it started unless waited for.
class Child {
 public:
  Child(const ChildCommand& command, Pipe& output, Pipe& messages);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (done_) return;
    send(SIGKILL);
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
    }
  }
  void send(int signal) const { ::kill(-pid_, signal); }  // to its process group
  bool has_ended() {
    if (!done_) done_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
    return done_;
  }
  int status() const { return status_; }

 private:
  pid_t pid_ = -1;
  int status_ = 0;
  bool done_ = false;
};

// Not posix_spawn: between fork and exec the child asks to be killed when we are, so that a killed
// study leaves no process behind that writes into its directory. Only async-signal-safe calls there.
Child::Child(const ChildCommand& command, Pipe& output, Pipe& messages) {
  std::string name = "nibble";
  std::vector<char*> argv = {name.data()};
  for (const std::string& argument : command.arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Pipe exec_error;
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) fail("cannot start a process: {}", std::strerror(errno));
  if (pid_ == 0) {
    ::setpgid(0, 0);  // its own group: a terminal's Ctrl-C comes once, through us
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::dup2(nothing.get(), STDIN_FILENO);
    ::dup2(output.write.get(), STDOUT_FILENO);
    ::dup2(messages.write.get(), STDERR_FILENO);
    ::execv(command.program.c_str(), argv.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = ::write(exec_error.write.get(), &error, sizeof error);
    ::_exit(127);
  }
  ::setpgid(pid_, pid_);  // here, too: whoever comes first
  output.write.close();
  messages.write.close();
  exec_error.write.close();
  int error = 0;
  ssize_t n;
  while ((n = ::read(exec_error.read.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (n == sizeof error) {
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
    }
    done_ = true;
    fail("{}: cannot be run: {}", command.program.string(), std::strerror(error));
  }
}

// Reads what is there; closes `fd` at its end.
std::string read_some(Fd& fd) {
  char buffer[1 << 16];
  const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return {};
  if (n <= 0) fd.close();
  return {buffer, static_cast<size_t>(std::max<ssize_t>(n, 0))};
}

}  // namespace

StopSignals::StopSignals() {
  NIBBLE_CHECK(stop_pipe[0] < 0);
  if (::pipe2(stop_pipe, O_CLOEXEC | O_NONBLOCK) != 0) fail("cannot make a pipe: {}", std::strerror(errno));
  stop_signal = 0;
  stop_count = 0;
  for (size_t i = 0; i < std::size(kStopSignals); ++i) {
    ::sigaction(kStopSignals[i], nullptr, &old_actions[i]);
    if (old_actions[i].sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = note_stop;
    action.sa_flags = SA_RESTART;
    ::sigaction(kStopSignals[i], &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < std::size(kStopSignals); ++i) ::sigaction(kStopSignals[i], &old_actions[i], nullptr);
  for (int& fd : stop_pipe) ::close(std::exchange(fd, -1));
}

int StopSignals::received() const { return stop_signal.load(); }
int StopSignals::count() const { return stop_count.load(); }
int StopSignals::fd() const { return stop_pipe[0]; }

std::string ChildResult::reason() const {
  if (signal == SIGKILL) {
    return out_of_memory ? "out of memory: killed by the kernel (signal 9)"
                         : "killed (signal 9), by the kernel for lack of memory or by somebody";
  }
  if (signal != 0) return fmt::format("killed by signal {} ({})", signal, ::strsignal(signal));
  constexpr std::string_view kPrefix = "nibble: ";
  if (last_line.starts_with(kPrefix)) return last_line.substr(kPrefix.size());
  return last_line.empty() ? fmt::format("exit {} without a message", exit_code) : last_line;
}

ChildResult run_child(const ChildCommand& command, const StopSignals& stop,
                      const std::function<void(std::string_view)>& on_line) {
  Fd log(::open(command.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!log.is_open()) fail("{}: cannot write: {}", command.log.string(), std::strerror(errno));
  write_all(log.get(), fmt::format("$ nibble {}\n", fmt::join(command.arguments, " ")), command.log);

  ChildResult result;
  Pipe output, messages;
  LineSplitter lines(on_line);
  const long oom_before = oom_kills();
  const auto start = std::chrono::steady_clock::now();
  Child child(command, output, messages);
  ::fcntl(output.read.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(messages.read.get(), F_SETFL, O_NONBLOCK);
  const auto take_output = [&] {
    result.output += read_some(output.read);
    if (result.output.size() > command.max_output) {
      fail("nibble {}: wrote more than {} bytes", command.arguments.at(0), command.max_output);
    }
  };
  const auto take_messages = [&] {
    const std::string bytes = read_some(messages.read);
    write_all(log.get(), bytes, command.log);
    lines.add(bytes);
    return !bytes.empty();
  };
  for (int seen = 0; !child.has_ended();) {
    if (const int count = stop.count(); count > seen) {
      child.send(count == 1 ? stop.received() : SIGKILL);
      seen = count;
    }
    const bool pipes_open = output.read.is_open() || messages.read.is_open();
    // poll() passes over descriptors below 0. The stop pipe is not emptied: each look costs one signal.
    pollfd waits[] = {
        {output.read.get(), POLLIN, 0}, {messages.read.get(), POLLIN, 0}, {stop.fd(), POLLIN, 0}};
    const nfds_t count = seen == 0 ? 3 : 2;
    if (::poll(waits, count, pipes_open ? kLookAgainMs : 2) < 0 && errno != EINTR) {
      fail("poll failed: {}", std::strerror(errno));
    }
    if (waits[0].revents != 0) take_output();
    if (waits[1].revents != 0) take_messages();
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  while (output.read.is_open()) {
    const size_t before = result.output.size();
    take_output();
    if (result.output.size() == before) break;
  }
  while (messages.read.is_open() && take_messages()) {
  }
  lines.finish();
  result.last_line = lines.last();
  if (WIFSIGNALED(child.status())) {
    result.signal = WTERMSIG(child.status());
    result.out_of_memory = result.signal == SIGKILL && oom_kills() > oom_before;
  } else {
    result.exit_code = WEXITSTATUS(child.status());
  }
  return result;
}

}  // namespace nibble
