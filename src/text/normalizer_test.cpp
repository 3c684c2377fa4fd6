#include "text/normalizer.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace nibble {
namespace {

Normalizer nfc() { return Normalizer::from_json({{"type", "NFC"}}, "t"); }

TEST(Normalizer, NfcOfUnicodeAnnex15) {
  // https://www.unicode.org/reports/tr15 tables 4 to 6, and Hangul.
  EXPECT_EQ(nfc().normalize("\u212B"), "\u00C5");
  EXPECT_EQ(nfc().normalize("\u2126"), "\u03A9");
  EXPECT_EQ(nfc().normalize("\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(nfc().normalize("\u0064\u0307\u0323"), "\u1E0D\u0307");
  EXPECT_EQ(nfc().normalize("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(nfc().normalize("\uFB01"), "\uFB01");
  EXPECT_EQ(nfc().normalize("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(nfc().normalize("\u0958"), "\u0915\u093C");  // excluded from composition
}

TEST(Normalizer, KeepsZeroAndInvalidBytes) {
  using std::string_literals::operator""s;
  EXPECT_EQ(nfc().normalize("\0e\u0301\xff\xc3"
                            "e\u0301\xed\xa0\x80"s),
            "\0\u00e9\xff\xc3\u00e9\xed\xa0\x80"s);
}

TEST(Normalizer, ManyCombiningMarks) {
  std::string text = "a", sorted = "a";
  for (int i = 0; i < 200'000; ++i) text += "\u0301";
  for (int i = 0; i < 200'000; ++i) text += "\u0323";
  sorted = "\u1ea1";
  for (int i = 1; i < 200'000; ++i) sorted += "\u0323";
  for (int i = 0; i < 200'000; ++i) sorted += "\u0301";
  EXPECT_EQ(nfc().normalize(text), sorted);
}

TEST(Normalizer, NoneAndSequences) {
  EXPECT_TRUE(Normalizer::from_json(nullptr, "t").changes_nothing());
  const Json empty = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  EXPECT_TRUE(Normalizer::from_json(empty, "t").changes_nothing());
  const Json nested = {{"type", "Sequence"}, {"normalizers", {empty, {{"type", "NFC"}}}}};
  EXPECT_FALSE(Normalizer::from_json(nested, "t").changes_nothing());
}

TEST(Normalizer, RefusesByName) {
  try {
    Normalizer::from_json({{"type", "Lowercase"}}, "file.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("Lowercase"), std::string::npos);
  }
  Json deep = {{"type", "NFC"}};
  for (int i = 0; i < 50; ++i) deep = Json{{"type", "Sequence"}, {"normalizers", Json::array({deep})}};
  EXPECT_THROW(Normalizer::from_json(deep, "t"), Error);
  EXPECT_THROW(Normalizer::from_json(7, "t"), Error);
  EXPECT_THROW(Normalizer::from_json({{"type", "Sequence"}}, "t"), Error);
}

}  // namespace
}  // namespace nibble
