// config.json as it is in the wild.
#include "model/config.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(ModelConfig, AnUnsupportedArchitectureNamesItsNearestRelative) {
  const auto message = [](const char* type) -> std::string {
    try {
      find_architecture(type, "config.json");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message("llama"), "");
  EXPECT_NE(message("qwen3").find("the nearest is qwen2"), std::string::npos);
  EXPECT_NE(message("mistral").find("the nearest is llama"), std::string::npos);
  EXPECT_NE(message("phi3").find("the nearest is llama"), std::string::npos);
  EXPECT_EQ(message("mamba").find("nearest"), std::string::npos);
}

}  // namespace
}  // namespace nibble
