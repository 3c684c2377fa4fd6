// A server on the loopback address that plays Hugging Face, with faults on demand; base of the tests'
// fixtures.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>

#include "base/error.h"
#include "hub/download.h"

namespace nibble {

class PlayedServer : public ::testing::Test {
 protected:
  PlayedServer() : dir_(std::filesystem::temp_directory_path() / fmt::format("nibble-hub-{}", ::getpid())) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override {  // before the fixtures' own members go
    server_.stop();
    if (thread_.joinable()) thread_.join();
    std::filesystem::remove_all(dir_);
  }
  // Once the paths are set; returns its address.
  std::string start() {
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
    return fmt::format("http://127.0.0.1:{}", port_);
  }
  // Whether the answer is a refusal, for good or for now.
  bool refused(const httplib::Request& request, httplib::Response& answer) {
    if (status_ != 0) answer.status = status_;
    if (!wanted_token_.empty() && request.get_header_value("Authorization") != "Bearer " + wanted_token_)
      answer.status = 401;
    return answer.status >= 400;
  }
  bool busy(httplib::Response& answer) {
    if (busy_ <= 0) return false;
    --busy_;
    answer.status = busy_status_;
    if (busy_status_ == 429) answer.set_header("Retry-After", "1");
    return true;
  }
  // An answer whose connection ends after `size` bytes.
  static void cut(const std::string& text, size_t size, const char* type, httplib::Response& answer) {
    answer.set_content_provider(text.size(), type,
                                [text, size](size_t offset, size_t, httplib::DataSink& sink) {
                                  if (offset > 0) return false;
                                  sink.write(text.data(), size);
                                  return true;
                                });
  }
  // The one line of the Error that `action` throws.
  template <typename Action>
  static std::string failure_of(Action&& action) {
    try {
      action();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), ::testing::Not(::testing::HasSubstr("\n")));
      EXPECT_THAT(e.what(), ::testing::Not(::testing::HasSubstr("secret")));
      return e.what();
    }
    return "no failure";
  }
  // Runs `action` on a disk that takes `bytes` of a file.
  template <typename Action>
  static void with_small_disk(rlim_t bytes, Action&& action) {
    rlimit before;
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit small = {bytes, before.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &small);
    action();
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
  }

  const std::filesystem::path dir_;
  httplib::Server server_;
  std::thread thread_;
  int port_ = 0;
  std::atomic<int> busy_ = 0, status_ = 0, busy_status_ = 503;
  std::string wanted_token_;
};

}  // namespace nibble
