#include "report/page_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "report/synthetic_study.h"

namespace nibble::report {
namespace {

using ::testing::HasSubstr;

class PageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    study_.store().save(testing::choice_cell(testing::baseline("alpha"), "1100110011"));
    Cell planned;
    planned.variant = testing::quantized("alpha", "gptq", 64);
    planned.task = "boolq";
    study_.store().plan({planned});
    server_ = std::make_unique<PageServer>(study_.dir());
    port_ = server_->bind(0);
    thread_ = std::thread([&] { server_->run(); });
  }
  void TearDown() override {
    server_->stop();
    thread_.join();
  }
  httplib::Result get(const char* path, const httplib::Headers& headers = {}) {
    httplib::Client client("127.0.0.1", port_);
    client.set_connection_timeout(10);
    for (int i = 0; i < 100; ++i) {
      if (auto result = client.Get(path, headers)) return result;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return client.Get(path, headers);
  }

  testing::SyntheticStudy study_;
  std::unique_ptr<PageServer> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(PageServerTest, ShowsWhatIsNewWhileTheStudyWrites) {
  const auto page = get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_THAT(page->body, HasSubstr("\"live\":true"));
  const auto first = get("/data.json");
  ASSERT_TRUE(first);
  EXPECT_EQ(parse_json(first->body, "data")["progress"], "1 of 2 cells measured, 1 not run yet");
  const std::string tag = first->get_header_value("ETag");
  EXPECT_EQ(get("/data.json", {{"If-None-Match", tag}})->status, 304);

  study_.store().save(testing::choice_cell(testing::quantized("alpha", "gptq", 64), "1100110010"));
  const auto second = get("/data.json", {{"If-None-Match", tag}});
  EXPECT_EQ(second->status, 200);
  EXPECT_EQ(parse_json(second->body, "data")["progress"], "2 of 2 cells measured");
}

TEST_F(PageServerTest, RefusesOtherNamesAndPaths) {
  EXPECT_EQ(get("/", {{"Host", "example.org"}})->status, 403);
  EXPECT_EQ(get("/", {{"Host", fmt::format("localhost:{}", port_)}})->status, 200);
  EXPECT_EQ(get("/results.db")->status, 404);
}

TEST_F(PageServerTest, APortIsTakenOnce) {
  PageServer other(study_.dir());
  EXPECT_THROW(other.bind(port_), Error);
}

TEST(PageServer, NeedsResults) {
  EXPECT_THROW(PageServer(std::filesystem::temp_directory_path() / "nibble-none"), Error);
}

}  // namespace
}  // namespace nibble::report
