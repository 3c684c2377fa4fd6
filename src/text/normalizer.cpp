#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "base/error.h"
#include "text/nesting.h"
#include "text/unicode.h"

namespace nibble {
namespace {

// Real files have one Prepend and one Replace; these bound what a file can make of a text.
constexpr size_t kMaxPrefix = 64;
constexpr size_t kMaxSteps = 16;
constexpr int kMaxReplacements = 2;

// utf8proc_decompose orders combining marks by swapping neighbours, which is quadratic in a long run
// of them; so each character is decomposed alone and the runs are sorted here.
void append_nfc(std::string& out, std::string_view text) {
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size() + 1);
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    text.remove_prefix(c.size);
    if (c.value < 0x80) {
      points.push_back(c.value);
      continue;
    }
    utf8proc_int32_t parts[32];
    const auto n = utf8proc_decompose_char(c.value, parts, std::size(parts), kOptions, nullptr);
    if (n < 0 || n > std::ssize(parts)) fail("NFC of U+{:04X} failed: {}", c.value, utf8proc_errmsg(n));
    points.insert(points.end(), parts, parts + n);
  }
  const auto combining = [](utf8proc_int32_t c) {
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
  };
  for (auto run = points.begin(); run != points.end();) {
    run = std::find_if(run, points.end(), [&](auto c) { return combining(c) != 0; });
    const auto end = std::find_if(run, points.end(), [&](auto c) { return combining(c) == 0; });
    std::stable_sort(run, end, [&](auto a, auto b) { return combining(a) < combining(b); });
    run = end;
  }
  const auto n = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                          static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (n < 0) fail("NFC failed: {}", utf8proc_errmsg(n));
  for (const auto c : std::span(points).first(static_cast<size_t>(n))) append_utf8(out, c);
}

// text in NFC but for what is not valid UTF-8
std::string nfc_of(std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size());
  for_each_utf8_run(
      text, [&](std::string_view run) { append_nfc(out, run); }, [&](std::string_view run) { out += run; });
  return out;
}

}  // namespace

Normalizer Normalizer::from_json(const Json& node, std::string_view where) {
  Normalizer result;
  if (!node.is_null()) result.append(node, fmt::format("{}: normalizer", where), 0);
  return result;
}

void Normalizer::append(const Json& node, std::string_view where, int depth) {
  const auto type = json_get<std::string>(node, "type", where);
  if (steps_.size() >= kMaxSteps) fail("{}: more than {} steps", where, kMaxSteps);
  if (type == "Sequence") {
    if (depth >= kMaxNesting) fail("{}: nested deeper than {} levels", where, kMaxNesting);
    const auto inner = node.find("normalizers");
    if (inner == node.end() || !inner->is_array()) fail("{}: Sequence: 'normalizers' is not an array", where);
    for (const Json& child : *inner) append(child, where, depth + 1);
  } else if (type == "NFC") {
    steps_.push_back({});
  } else if (type == "Prepend") {
    auto prefix = json_get<std::string>(node, "prepend", where);
    if (prefix.size() > kMaxPrefix)
      fail("{}: Prepend of {} bytes (at most {})", where, prefix.size(), kMaxPrefix);
    if (!prefix.empty()) steps_.push_back({std::move(prefix), {}});
  } else if (type == "Replace") {
    const auto replaces = [](const Step& step) { return step.replacement.has_value(); };
    if (std::ranges::count_if(steps_, replaces) >= kMaxReplacements)
      fail("{}: more than {} Replace are not supported", where, kMaxReplacements);
    steps_.push_back({"", Replacement::from_json(node, where)});
  } else {
    fail("{} '{}' is not supported (NFC, Prepend, Replace and Sequence are)", where, type);
  }
}

std::string Normalizer::normalize(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (step.replacement) {
      step.replacement->apply(out);
    } else if (step.prefix.empty()) {
      out = nfc_of(out);
    } else if (!out.empty()) {
      out.insert(0, step.prefix);
    }
  }
  return out;
}

}  // namespace nibble
