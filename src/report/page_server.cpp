#include "report/page_server.h"

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "report/page.h"

namespace nibble::report {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHost = "127.0.0.1";

// Changes with every transaction of the study: a commit writes to the file.
std::string state_of(const fs::path& database) {
  std::error_code error;
  const auto time = fs::last_write_time(database, error).time_since_epoch().count();
  if (error) return "";
  return fmt::format("\"{}-{}\"", time, fs::file_size(database, error));
}

}  // namespace

struct PageServer::Impl {
  explicit Impl(const fs::path& dir) : database(dir / "results.db") {}

  fs::path database;
  httplib::Server server;
  int port = 0;
  std::atomic<bool> started = false, stopping = false, finished = false;
  std::mutex mutex;  // of what follows: one report is made at a time
  std::string tag, page, data;

  // Brings page and data up to date with the file. Throws Error.
  void refresh() {
    const std::string now = state_of(database);
    if (!now.empty() && now == tag) return;
    const Report report = make_report(Store::open(database, true));
    page = render_page(report, {.live = true});
    data = page_data(report, {.live = true});
    tag = now;
  }
  bool is_ours(const httplib::Request& request) const {
    const std::string host = request.get_header_value("Host");
    return host == fmt::format("{}:{}", kHost, port) || host == fmt::format("localhost:{}", port);
  }
  void answer(const httplib::Request& request, httplib::Response& response, std::string Impl::*body,
              const char* type) {
    response.set_header("Cache-Control", "no-store");
    response.set_header("X-Content-Type-Options", "nosniff");
    if (!is_ours(request)) {
      response.status = 403;
      response.set_content("This server answers its own machine only.\n", "text/plain");
      return;
    }
    const std::lock_guard lock(mutex);
    try {
      refresh();
    } catch (const Error& error) {
      response.status = 503;
      response.set_content(std::string(error.what()) + "\n", "text/plain; charset=utf-8");
      return;
    }
    response.set_header("ETag", tag);
    if (request.get_header_value("If-None-Match") == tag) {
      response.status = 304;
      return;
    }
    response.set_content(this->*body, type);
  }
};

PageServer::PageServer(const fs::path& dir) : impl_(std::make_unique<Impl>(dir)) {
  impl_->refresh();
  Impl& impl = *impl_;
  impl.server.Get("/", [&impl](const httplib::Request& request, httplib::Response& response) {
    impl.answer(request, response, &Impl::page, "text/html; charset=utf-8");
  });
  impl.server.Get("/data.json", [&impl](const httplib::Request& request, httplib::Response& response) {
    impl.answer(request, response, &Impl::data, "application/json");
  });
}

PageServer::~PageServer() = default;

int PageServer::bind(int port) {
  if (port == 0) {
    impl_->port = impl_->server.bind_to_any_port(kHost);
    if (impl_->port < 0) fail("{}: no port is free", kHost);
    return impl_->port;
  }
  // SO_REUSEPORT, httplib's default, would let two servers share a port.
  impl_->server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  if (!impl_->server.bind_to_port(kHost, port))
    fail("port {} of {} is taken; name another with --port", port, kHost);
  impl_->port = port;
  return port;
}

void PageServer::run() {
  impl_->started = true;
  if (!impl_->stopping) impl_->server.listen_after_bind();
  impl_->finished = true;
}

// httplib forgets a stop() that comes before it listens: asked again until run() has ended.
void PageServer::stop() {
  impl_->stopping = true;
  while (impl_->started && !impl_->finished) {
    impl_->server.stop();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace nibble::report
