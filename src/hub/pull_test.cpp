// Pulls from a server on the loopback address that plays the hub, with every fault that a network has.
#include "hub/pull.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "base/file.h"
#include "base/sha256.h"
#include "hub/test_server.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

std::string noise(size_t size, unsigned seed) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>((seed = seed * 1664525u + 1013904223u) >> 24);
  return text;
}

class PullTest : public PlayedServer {
 protected:
  void SetUp() override {
    files_["config.json"] = "{\"model_type\": \"llama\"}";
    files_["tokenizer.json"] = noise(5000, 1);
    files_["model-00001-of-00002.safetensors"] = noise(400'000, 2);
    files_["model-00002-of-00002.safetensors"] = noise(300'000, 3);
    files_["pytorch_model.bin"] = "a pickle";
    files_["README.md"] = "words";
    server_.Get(R"(/api/models/org/name/revision/(.+))", [this](const auto& request, auto& answer) {
      ++listings_;
      if (refused(request, answer) || busy(answer)) return;
      answer.set_content(listing_.empty() ? listing() : listing_, "application/json");
    });
    server_.Get(R"(/org/name/resolve/([0-9a-f]+)/(.+))", [this](const auto& request, auto& answer) {
      if (refused(request, answer) || busy(answer)) return;
      const std::string name = request.matches[2];
      if (name.ends_with(".safetensors"))  // where large files lie: another host
        answer.set_redirect(fmt::format("http://localhost:{}/cdn/{}", port_, name));
      else
        serve(name, request, answer);
    });
    server_.Get(R"(/cdn/(.+))", [this](const auto& request, auto& answer) {
      if (request.has_header("Authorization")) token_at_other_host_ = true;
      if (!busy(answer)) serve(request.matches[1], request, answer);
    });
    options_.endpoint = start();
    options_.id = "org/name";
    options_.repository = dir_ / "models--org--name";
    options_.download.first_wait = 0.01;
  }

  std::string listing() const {
    std::string siblings;
    for (const auto& [name, text] : files_) {
      if (!siblings.empty()) siblings += ",";
      const std::string lfs =
          name.ends_with(".safetensors")
              ? fmt::format(R"(,"lfs":{{"sha256":"{}","size":{}}})", sha256_of(text), text.size())
              : "";
      siblings += fmt::format(R"({{"rfilename":"{}","blobId":"{}","size":{}{}}})", name,
                              sha256_of(name).substr(0, 40), text.size(), lfs);
    }
    return fmt::format(R"({{"sha":"{}","siblings":[{}]}})", kCommit, siblings);
  }

  void serve(const std::string& name, const httplib::Request& request, httplib::Response& answer) {
    const std::lock_guard guard(mutex_);
    served_.push_back(name + (request.has_header("Range") ? " " + request.get_header_value("Range") : ""));
    std::string text = files_.at(name);
    if (wrong_ > 0 && name.ends_with(".safetensors")) {
      --wrong_;
      text[7] = static_cast<char>(text[7] ^ 1);
    }
    if (cut_ > 0 && name.ends_with(".safetensors")) {  // the connection ends before the body does
      --cut_;
      PlayedServer::cut(text, 100'000, "application/octet-stream", answer);
      return;
    }
    if (ignore_ranges_ && request.has_header("Range")) {
      const_cast<httplib::Request&>(request).ranges.clear();
      answer.status = 200;
    }
    answer.set_content(text, "application/octet-stream");
  }

  Pulled pull() {
    return pull_model(options_, [this](uint64_t done, uint64_t total) {
      EXPECT_LE(done, std::max<uint64_t>(total, done));
      if (stop_after_ > 0 && done >= stop_after_) throw std::runtime_error("stopped");
    });
  }
  std::string failure() {
    return failure_of([this] { pull(); });
  }
  void expect_whole(const Pulled& pulled) {
    EXPECT_EQ(pulled.snapshot, options_.repository / "snapshots" / kCommit);
    for (const auto& [name, text] : files_) {
      const bool taken = name != "README.md" && name != "pytorch_model.bin";
      ASSERT_EQ(fs::exists(pulled.snapshot / name), taken) << name;
      if (!taken) continue;
      EXPECT_EQ(read_file(pulled.snapshot / name), text) << name;
      EXPECT_TRUE(fs::is_symlink(pulled.snapshot / name));
    }
    EXPECT_EQ(read_file(options_.repository / "refs" / "main"), kCommit);
    for (const auto& entry : fs::directory_iterator(options_.repository / "blobs"))
      EXPECT_NE(entry.path().extension(), ".incomplete");
  }

  PullOptions options_;
  std::map<std::string, std::string> files_;
  std::string listing_;
  std::mutex mutex_;
  std::vector<std::string> served_;
  std::atomic<int> listings_ = 0;
  std::atomic<bool> token_at_other_host_ = false, ignore_ranges_ = false;
  int wrong_ = 0, cut_ = 0;
  uint64_t stop_after_ = 0;
};

TEST_F(PullTest, BringsAModelOnce) {
  const Pulled pulled = pull();
  expect_whole(pulled);
  EXPECT_EQ(pulled.files, 4u);
  EXPECT_EQ(pulled.fetched, 4u);
  EXPECT_EQ(pulled.bytes, 705'000u + files_["config.json"].size());
  served_.clear();
  EXPECT_EQ(pull().fetched, 0u);
  EXPECT_TRUE(served_.empty());
  options_.offline = true;
  listings_ = 0;
  EXPECT_EQ(pull().snapshot, pulled.snapshot);
  EXPECT_EQ(listings_, 0);
}

TEST_F(PullTest, OfflineSaysWhatIsMissing) {
  options_.offline = true;
  EXPECT_THAT(failure(), HasSubstr("offline nothing is fetched"));
}

TEST_F(PullTest, TheTokenIsForTheFirstHostAlone) {
  wanted_token_ = "secret";
  EXPECT_THAT(failure(), HasSubstr("set HF_TOKEN"));
  options_.download.token = "secret2";
  EXPECT_THAT(failure(), HasSubstr("does not accept this HF_TOKEN"));
  options_.download.token = "secret";
  expect_whole(pull());
  EXPECT_FALSE(token_at_other_host_);
}

TEST_F(PullTest, RefusalsSayWhatHelps) {
  status_ = 403;
  EXPECT_THAT(failure(), HasSubstr("accept the model's terms"));
  status_ = 404;
  EXPECT_THAT(failure(), HasSubstr("not there (404)"));
  EXPECT_EQ(listings_, 2);  // no second try
}

TEST_F(PullTest, BusyServersAreAskedAgain) {
  busy_ = 4;
  expect_whole(pull());
  busy_ = 1000;
  EXPECT_THAT(failure(), HasSubstr("the server answers 503 (6 tries)"));
}

TEST_F(PullTest, RetryAfterIsObeyed) {
  busy_ = 1;
  busy_status_ = 429;
  const auto start = std::chrono::steady_clock::now();
  expect_whole(pull());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(990));
}

TEST_F(PullTest, CutConnectionsAreGoneOnFrom) {
  cut_ = 1;
  options_.jobs = 1;
  expect_whole(pull());
  EXPECT_THAT(served_, ::testing::Contains("model-00001-of-00002.safetensors bytes=100000-"));
}

TEST_F(PullTest, AServerThatIgnoresRangesStartsAgain) {
  cut_ = 1;
  ignore_ranges_ = true;
  expect_whole(pull());
}

TEST_F(PullTest, WrongBytesAreThrownAway) {
  wrong_ = 1;
  expect_whole(pull());
  fs::remove_all(options_.repository);
  wrong_ = 1000;
  EXPECT_THAT(failure(), HasSubstr("twice: nothing of it is kept"));
  EXPECT_FALSE(fs::exists(options_.repository / "refs"));
  wrong_ = 0;
  expect_whole(pull());
}

TEST_F(PullTest, AStoppedPullGoesOn) {
  options_.jobs = 1;
  cut_ = 1;
  stop_after_ = 1;
  EXPECT_THROW(pull(), std::runtime_error);
  EXPECT_FALSE(fs::exists(options_.repository / "refs"));
  stop_after_ = 0;
  std::vector<std::string> whole;  // blobs that were finished
  for (const auto& [name, text] : files_) {
    const std::string id = name.ends_with(".safetensors") ? sha256_of(text) : sha256_of(name).substr(0, 40);
    if (fs::exists(options_.repository / "blobs" / id)) whole.push_back(name);
  }
  served_.clear();
  expect_whole(pull());
  for (const std::string& name : whole) EXPECT_THAT(served_, Not(::testing::Contains(name)));
}

TEST_F(PullTest, AFullDiskKeepsWhatCame) {
  options_.jobs = 1;
  std::string said;
  with_small_disk(150'000, [&] { said = failure(); });
  EXPECT_THAT(said, HasSubstr("bytes of it are kept"));
  served_.clear();
  expect_whole(pull());
  EXPECT_THAT(served_, ::testing::Contains("model-00001-of-00002.safetensors bytes=150000-"));
}

TEST_F(PullTest, TwoAtOnceAreOne) {
  std::string other;
  const Pulled pulled = pull_model(options_, [&](uint64_t, uint64_t) {
    if (other.empty()) other = failure();
  });
  expect_whole(pulled);
  EXPECT_THAT(other, HasSubstr("another pull"));
}

TEST_F(PullTest, NobodyAnswers) {
  server_.stop();
  EXPECT_THAT(failure(), HasSubstr("(6 tries)"));
}

TEST(HostileListing, EndsInOneLine) {
  const auto error = [](const std::string& siblings, const std::string& sha = kCommit) -> std::string {
    try {
      read_listing(fmt::format(R"({{"sha":"{}","siblings":[{}]}})", sha, siblings), "hub");
    } catch (const Error& e) {
      return e.what();
    }
    return "none";
  };
  const std::string id(40, 'a'), hash(64, 'b');
  const std::string good =
      fmt::format(R"({{"rfilename":"model.safetensors","lfs":{{"sha256":"{}","size":5}}}})", hash);
  EXPECT_EQ(error(good), "none");
  EXPECT_THAT(error(good, "../../etc"), HasSubstr("is not one"));
  EXPECT_THAT(error(R"({"rfilename":"..\\x.json","blobId":")" + id + R"(","size":1})"),
              HasSubstr("none that can be kept"));
  EXPECT_THAT(error(good + R"(,{"rfilename":"a.json","blobId":"../x","size":1})"), HasSubstr("is not one"));
  EXPECT_THAT(error(R"({"rfilename":"model.safetensors","lfs":{"sha256":"zz","size":5}})"),
              HasSubstr("is not one"));
  EXPECT_THAT(error(R"({"rfilename":"pytorch_model.bin","blobId":")" + id + R"(","size":1})"),
              HasSubstr("only pickled"));
  EXPECT_THAT(error(R"({"rfilename":"m.gguf","blobId":")" + id + R"(","size":1})"), HasSubstr("GGUF"));
  EXPECT_THAT(error(""), HasSubstr("no weights"));
  EXPECT_NE(error(R"({"rfilename":7})"), "none");
  for (const char* size : {"-1", "1e300", "9223372036854775807", "\"5\""})
    EXPECT_NE(error(good + R"(,{"rfilename":"a.json","blobId":")" + id + R"(","size":)" + size + "}"), "none")
        << size;
  EXPECT_THROW(read_listing("[]", "hub"), Error);
  EXPECT_THROW(read_listing("{", "hub"), Error);
  const HubListing two = read_listing(
      fmt::format(
          R"({{"sha":"{}","siblings":[{},{{"rfilename":"consolidated.safetensors","lfs":{{"sha256":"{}","size":5}}}}]}})",
          kCommit, good, hash),
      "hub");
  EXPECT_EQ(two.files.size(), 1u);
}

}  // namespace
}  // namespace nibble
