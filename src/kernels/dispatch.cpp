#include <array>
#include <cstdlib>

#include "base/error.h"
#include "kernels/ops.h"

namespace nibble {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"ref", "avx2", "avxvnni", "avx512", "amx"};

const KernelTable& choose() {
  if (const char* forced = std::getenv("NIBBLE_ISA"); forced && *forced) {
    if (const KernelTable* table = kernels_named(forced)) return *table;
    std::string known;
    for (std::string_view name : supported_isas()) known += fmt::format(" {}", name);
    fail("NIBBLE_ISA={}: not available on this processor; it can run:{}", forced, known);
  }
  return *kernels_named(supported_isas().back());
}

}  // namespace

const KernelTable* kernels_named(std::string_view name) {
  if (name == "ref") return &isa::kRef;
  if (name == "avx2") return isa::avx2();
  if (name == "avxvnni") return isa::avxvnni();
  if (name == "avx512") return isa::avx512();
  if (name == "amx") return isa::amx();
  return nullptr;
}

std::vector<std::string_view> supported_isas() {
  std::vector<std::string_view> names;
  for (std::string_view name : kNames) {
    if (kernels_named(name)) names.push_back(name);
  }
  return names;
}

const KernelTable& kernels() {
  static const KernelTable& table = choose();
  return table;
}

}  // namespace nibble
