#include "model/find_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class FindModel : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / ("nibble-find-" + std::to_string(::getpid()));
    fs::create_directories(dir_);
    for (const char* name : {"NIBBLE_DATA", "HF_HUB_CACHE", "HF_HOME"}) ::unsetenv(name);
    ::setenv("XDG_CACHE_HOME", (dir_ / "cache").c_str(), 1);
  }
  void TearDown() override { fs::remove_all(dir_); }
  fs::path dir_;
};

TEST_F(FindModel, BundledNamesLieInTheCheckoutOrInNibbleData) {
  for (const std::string& name : bundled_models())
    EXPECT_TRUE(fs::exists(find_model(name) / "config.json")) << name;
  EXPECT_TRUE(fs::exists(bundled_task_files() / "boolq.validation.jsonl"));
  fs::create_directories(dir_ / "data/models");
  ::setenv("NIBBLE_DATA", (dir_ / "data").c_str(), 1);
  EXPECT_EQ(find_model("llama-mini"), dir_ / "data/models/llama-mini");
  ::setenv("NIBBLE_DATA", (dir_ / "nothing").c_str(), 1);
  EXPECT_THROW(find_model("llama-mini"), Error);
}

TEST_F(FindModel, PathsAreTakenAsTheyStand) {
  EXPECT_EQ(find_model(dir_.string()), dir_);
  EXPECT_THROW(find_model((dir_ / "absent").string()), Error);
  EXPECT_THROW(find_model(""), Error);
}

TEST_F(FindModel, TheFetchedModelLiesInTheCache) {
  EXPECT_THROW(find_model(std::string(kFetchedModel)), Error);
  fs::create_directories(fetched_model_path().parent_path());
  std::ofstream(fetched_model_path()) << "x";
  EXPECT_EQ(find_model(std::string(kFetchedModel)),
            dir_ / "cache/nibble/models/SmolLM2-135M-Instruct.Q4_1.gguf");
}

TEST_F(FindModel, HubIdsFollowRefsMain) {
  const fs::path repository = dir_ / "hub/models--org--name";
  fs::create_directories(repository / "refs");
  fs::create_directories(repository / "snapshots/0123");
  std::ofstream(repository / "refs/main") << "0123\n";
  ::setenv("HF_HUB_CACHE", (dir_ / "hub").c_str(), 1);
  EXPECT_EQ(find_model("org/name"), repository / "snapshots/0123");
  EXPECT_THROW(find_model("org/other"), Error);
  ::unsetenv("HF_HUB_CACHE");
  ::setenv("HF_HOME", dir_.c_str(), 1);
  EXPECT_EQ(find_model("org/name"), repository / "snapshots/0123");
  std::ofstream(repository / "refs/main") << "../../../etc";
  EXPECT_THROW(find_model("org/name"), Error);
  std::ofstream(repository / "refs/main") << "4567";
  EXPECT_THROW(find_model("org/name"), Error);
}

}  // namespace
}  // namespace nibble
