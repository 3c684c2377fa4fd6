#include "base/progress.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(Progress, DurationsReadWell) {
  EXPECT_EQ(duration_text(0.2), "0 s");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(200), "3 min 20 s");
  EXPECT_EQ(duration_text(7500), "2 h 5 min");
}

TEST(Progress, LineNamesWhatIsDone) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress(file, "boolq", "rows");
    progress.update(0, 40);
    EXPECT_EQ(progress.line(), "boolq: 0 of 40 rows");
    progress.update(10, 40);
    EXPECT_EQ(progress.line().find("boolq: 10 of 40 rows, "), 0u);
    EXPECT_NE(progress.line().find(" left"), std::string::npos);
    progress.update(40, 40);
    EXPECT_EQ(progress.line().find(" left"), std::string::npos);
    progress.note("KL 0.5");
    EXPECT_TRUE(progress.line().ends_with(", KL 0.5"));
  }
  EXPECT_EQ(std::ftell(file), 0);  // no terminal, and no line before some seconds have passed
  std::fclose(file);
}

}  // namespace
}  // namespace nibble
