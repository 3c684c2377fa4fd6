#include "study/commands.h"

#include <stdlib.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.h"

namespace nibble {
namespace {

TEST(FileName, IsPlainAndUnique) {
  EXPECT_EQ(file_name({"llama-mini", "gptq", 4, 64}), "llama-mini.gptq-4bit-g64");
  EXPECT_EQ(file_name({"llama-mini", "baseline", 16, 0}), "llama-mini.baseline");
  const std::string hub = file_name({"org/name", "rtn", 8, 0});
  EXPECT_EQ(hub.substr(0, 5), "name-");
  EXPECT_NE(hub, file_name({"other/name", "rtn", 8, 0}));
  EXPECT_NE(file_name({"a b", "rtn", 8, 0}), file_name({"a_b", "rtn", 8, 0}));
  for (const std::string model : {"/data/x/", "..", "../..", "/", ".", ".hidden", "a\nb'$(x)", "ü",
                                  "0123456789012345678901234567890123456789012345678901234567890123456789"}) {
    const std::string name = file_name({model, "rtn", 8, 0});
    EXPECT_NE(name[0], '.') << name;
    EXPECT_LT(name.size(), 100u);
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_."), std::string::npos) << name;
  }
  EXPECT_EQ(file_name({"/data/x/", "rtn", 8, 0}).substr(0, 2), "x-");
  const std::string elsewhere = file_name({"llama-mini", "awq", 4, 32, "org/mini"});
  EXPECT_EQ(elsewhere.substr(0, 29), "llama-mini.awq-4bit-g32.mini-");
  EXPECT_NE(elsewhere, file_name({"llama-mini", "awq", 4, 32, "other/mini"}));
  EXPECT_EQ(file_name({"mini", "awq", 4, 32, "mini"}), "mini.awq-4bit-g32");
}

TEST(ReadBench, TakesTheLargestPeak) {
  const Cell cell = read_bench(R"([
    {"test": "pp128", "memory_bytes": {"file":1,"weights":2,"kv_cache":3,"workspace":4,"peak_rss":50,"peak_gpu":0}},
    {"test": "tg32", "memory_bytes": {"file":1,"weights":2,"kv_cache":9,"workspace":4,"peak_rss":40,"peak_gpu":0}}])");
  EXPECT_EQ(cell.bench.size(), 2u);
  EXPECT_EQ(cell.memory->peak_rss, 50u);
  EXPECT_EQ(cell.memory->kv_cache, 3u);
}

TEST(ReadBench, RefusesOtherThings) {
  for (const char* text : {"", "{}", "[]", "[3]", "[{\"test\": 1}]", "[{\"test\": \"pp1\"}]"}) {
    EXPECT_THROW(read_bench(text), OutputError) << text;
  }
}

TEST(ReadDistance, WantsAFiniteKl) {
  std::string file = (std::filesystem::temp_directory_path() / "nibble_kl_XXXXXX").string();
  const int fd = ::mkstemp(file.data());
  ASSERT_GE(fd, 0);
  ::close(fd);
  const auto read = [&](const char* text) {
    write_file_atomically(file, text);
    return read_distance(file);
  };
  const Cell cell =
      read(R"({"base": "/home/a", "quant": "/home/b", "kl": {"mean": 0.5}, "top1_agreement": 0.9})");
  EXPECT_EQ(cell.distance, Json({{"kl", {{"mean", 0.5}}}, {"top1_agreement", 0.9}}));
  for (const char* text : {"", "{}", "[]", R"({"kl": 3})", R"({"kl": {}})", R"({"kl": {"mean": null}})",
                           R"({"kl": {"mean": "inf"}})", R"({"kl": {"mean": 1}, "top1_agreement": "x"})"}) {
    EXPECT_THROW(read(text), OutputError) << text;
  }
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace nibble
