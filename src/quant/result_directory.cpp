#include "quant/result_directory.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// A temporary file of AtomicFile: NAME.tmpPROCESS.
bool is_half_written(const fs::path& path) {
  const std::string suffix = path.extension().string();
  constexpr std::string_view kMark = ".tmp";
  return suffix.starts_with(kMark) && suffix.size() > kMark.size() &&
         std::all_of(suffix.begin() + kMark.size(), suffix.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

ResultDirectory::ResultDirectory(fs::path path, std::string report)
    : path_(std::move(path)), report_(std::move(report)) {}

void ResultDirectory::begin(bool force) const {
  if (fs::exists(path_)) {
    if (!fs::is_directory(path_)) fail("{}: exists and is not a directory", path_.string());
    const bool begun = fs::is_directory(unfinished()) && !fs::exists(path_ / report_);
    if (!force && !begun && !fs::is_empty(path_))
      fail("{}: exists; give another name, or --force to write over it", path_.string());
    fs::remove(path_ / report_);
    std::vector<fs::path> stale;
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (begun && entry.is_regular_file() && is_half_written(entry.path())) stale.push_back(entry.path());
    }
    for (const fs::path& file : stale) fs::remove(file);
  }
  make_directory(unfinished());
}

void ResultDirectory::finish(std::string_view report) const {
  write_file_atomically(path_ / report_, report);
  std::error_code ignored;
  fs::remove_all(unfinished(), ignored);
}

}  // namespace nibble
