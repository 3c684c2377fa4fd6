// Names in Hugging Face's cache: models--ORG--NAME/{blobs/ID, refs/REVISION, snapshots/COMMIT/FILE →
// ../../blobs/ID}.
#pragma once

#include <filesystem>
#include <string>

namespace nibble {

// The commit that refs/REVISION of a repository's folder names; "" where there is no such ref. Throws Error
// for one that would lead out of snapshots/.
std::string commit_of_ref(const std::filesystem::path& repository, const std::string& revision);
std::filesystem::path ref_path(const std::filesystem::path& repository, const std::string& revision);
std::filesystem::path snapshot_path(const std::filesystem::path& repository, const std::string& commit);

}  // namespace nibble
