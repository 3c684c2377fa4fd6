#include "hub/cache.h"

#include "base/error.h"
#include "base/file.h"

namespace nibble {

namespace fs = std::filesystem;

std::string commit_of_ref(const fs::path& repository, const std::string& revision) {
  const fs::path ref = ref_path(repository, revision);
  std::error_code error;
  if (!fs::exists(ref, error)) return "";
  std::string commit = read_file(ref, 4096);
  commit.erase(commit.find_last_not_of(" \t\r\n") + 1);
  if (commit.empty() || commit.find('/') != std::string::npos)
    fail("{}: names the revision '{}', which is not in {}", ref.string(), commit,
         (repository / "snapshots").string());
  return commit;
}

fs::path ref_path(const fs::path& repository, const std::string& revision) {
  return repository / "refs" / revision;
}

fs::path snapshot_path(const fs::path& repository, const std::string& commit) {
  return repository / "snapshots" / commit;
}

}  // namespace nibble
