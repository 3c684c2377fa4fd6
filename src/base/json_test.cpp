#include "base/json.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

template <typename T>
T read(const char* value) {
  return json_get<T>(parse_json(fmt::format("{{\"x\": {}}}", value), "f.json"), "x", "f.json");
}

TEST(HostileJson, NumbersAreWholeAndFitWhereTheyStand) {
  EXPECT_EQ(read<int>("-7"), -7);
  EXPECT_EQ(read<int64_t>("32000.0"), 32000);
  EXPECT_EQ(read<uint64_t>("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(read<double>("1e300"), 1e300);
  EXPECT_EQ(read<std::vector<int>>("[1, 2]"), (std::vector<int>{1, 2}));
  EXPECT_EQ(read<Json>("[1e300]"), Json({1e300}));
  for (const char* value : {"1.5", "1e19", "-1e300", "2147483648", "-2147483649", "18446744073709551615"})
    EXPECT_THROW(read<int>(value), Error) << value;
  for (const char* value : {"1e19", "1e16", "9223372036854775808", "0.5"})
    EXPECT_THROW(read<int64_t>(value), Error) << value;
  EXPECT_THROW(read<uint64_t>("-1"), Error);
  EXPECT_THROW(read<uint64_t>("-1.0"), Error);
  EXPECT_THROW(read<std::vector<int>>("[1, 1e19]"), Error);
  EXPECT_THROW(read<int>("\"1\""), Error);
}

}  // namespace
}  // namespace nibble
