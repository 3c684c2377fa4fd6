// The page of a study, live: served to this machine alone, while the study may still be running.
#pragma once

#include <filesystem>
#include <memory>

namespace nibble::report {

// Answers GET / with the page and GET /data.json with what it shows, made anew when results.db changes;
// an If-None-Match of the present state gets 304. Listens on 127.0.0.1 only and refuses requests that name
// another host, so that no page of the web reads it through a name of its own.
class PageServer {
 public:
  // Error when `dir` holds no results that can be read.
  explicit PageServer(const std::filesystem::path& dir);
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

  // Takes the port, 0: any free one; returns it. Error when it is taken.
  int bind(int port);
  void run();   // answers until stop()
  void stop();  // from any thread

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::report
