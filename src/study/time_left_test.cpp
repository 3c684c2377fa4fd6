#include "study/time_left.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

const Variant kBase{"a", "baseline", 16, 0}, kGptq16{"a", "gptq", 4, 16}, kGptq64{"a", "gptq", 4, 64};
const Variant kOther{"b", "gptq", 4, 16};

TEST(TimeLeft, NearestKindOfWorkIsTheGuess) {
  TimeLeft time;
  EXPECT_FALSE(time.estimate({{kBase, "boolq"}}));
  EXPECT_EQ(time.estimate({}), 0);
  time.add_done(kBase, "boolq", 10);
  EXPECT_EQ(time.estimate({{kGptq16, "gsm8k"}}), 10);  // all there is
  time.add_done(kGptq16, "boolq", 4);
  EXPECT_EQ(time.estimate({{kGptq64, "boolq"}}), 4);                      // model and method
  EXPECT_EQ(time.estimate({{{"a", "gsq", 4, 16}, "boolq"}}), 7);          // model
  EXPECT_EQ(time.estimate({{kOther, "boolq"}, {kGptq64, "boolq"}}), 11);  // work; model and method
  time.add_done(kGptq16, "boolq", 6);                                     // again: replaces
  EXPECT_EQ(time.estimate({{kGptq64, "boolq"}}), 6);
  EXPECT_TRUE(time.knows(kGptq16, "boolq"));
  EXPECT_FALSE(time.knows(kGptq64, "boolq"));
}

}  // namespace
}  // namespace nibble
