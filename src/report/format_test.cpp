#include "report/format.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::report {
namespace {

TEST(Format, FixedUsesTheMinusSignAndNoSignedZero) {
  EXPECT_EQ(fixed(-1.25, 1), "−1.2");
  EXPECT_EQ(fixed(1.5, 1, true), "+1.5");
  EXPECT_EQ(fixed(-0.04, 1, true), "0.0");
  EXPECT_EQ(fixed(0, 1, true), "0.0");
  EXPECT_EQ(fixed(std::nan(""), 1), "nan");
  EXPECT_EQ(fixed(-INFINITY, 1), "−inf");
}

TEST(Format, ThreeSignificantDigits) {
  EXPECT_EQ(three_digits(1234.5), "1230");
  EXPECT_EQ(three_digits(999.6), "1000");
  EXPECT_EQ(three_digits(45.67), "45.7");
  EXPECT_EQ(three_digits(9.996), "10.0");
  EXPECT_EQ(three_digits(0.012345), "0.0123");
  EXPECT_EQ(three_digits(0), "0");
  EXPECT_EQ(three_digits(INFINITY), "inf");
}

TEST(Format, Units) {
  EXPECT_EQ(percent(0.7512), "75.1");
  EXPECT_EQ(percent(-0.015, true), "−1.5");
  EXPECT_EQ(perplexity(4.3519), "4.352");
  EXPECT_EQ(perplexity(41.817), "41.82");
  EXPECT_EQ(perplexity(12345), "12300");
  EXPECT_EQ(perplexity(3.2e9), "3.20e+09");
  EXPECT_EQ(perplexity(INFINITY), "inf");
  EXPECT_EQ(megabytes(9850000), "9.8");
  EXPECT_EQ(megabytes(-1.26e6, true), "−1.3");
  EXPECT_EQ(p_value(0.0004), "< 0.001");
  EXPECT_EQ(p_value(0.0314), "0.031");
  EXPECT_EQ(counted(1, "cell"), "1 cell");
  EXPECT_EQ(counted(0, "cell"), "0 cells");
}

TEST(Format, HashIsFnv1a) {
  // Test vectors of the FNV reference code.
  EXPECT_EQ(hash_text(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(hash_text("foobar"), 0x85944171f73967e8ull);
}

}  // namespace
}  // namespace nibble::report
