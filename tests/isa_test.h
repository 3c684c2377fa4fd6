// A test that runs on every instruction set that the processor has.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/ops.h"

namespace nibble {

class IsaTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    table_ = kernels_named(GetParam());
    if (!table_) GTEST_SKIP() << "this processor has no " << GetParam();
  }
  const KernelTable* table_ = nullptr;
};

// INSTANTIATE_TEST_SUITE_P(Isa, …, every_isa(), isa_name)
inline auto every_isa() { return ::testing::Values("ref", "avx2", "avxvnni", "avx512", "amx"); }
inline std::string isa_name(const ::testing::TestParamInfo<std::string>& parameter) {
  return parameter.param;
}

}  // namespace nibble
