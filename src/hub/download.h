// One file of a hub into the blobs of a cache: resumed, tried again, verified.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace nibble {

struct HubFile {
  std::string name;    // in the repository
  std::string blob;    // its file name in the cache: the sha256 of large files, git's id of small ones
  std::string sha256;  // empty: not known, then the size is all that is checked
  uint64_t size = 0;
};

struct DownloadOptions {
  std::string token;
  int tries = 6;             // in a row that bring no byte
  double first_wait = 0.5;   // seconds before the second try, then twice as long each time
  double longest_wait = 60;  // of Retry-After, too
  // For messages: what is fetched, and what on the command line named it.
  std::string subject = "model", named_by = "the name and --revision";
};

// blobs/NAME.incomplete grows and becomes blobs/NAME when size and hash are right; what an earlier run left
// of it is gone on from. `progress` is told of bytes that are there (negative where they were thrown away)
// and may throw to stop. Throws Error in one line: what the server said, what helps, and that the same
// command goes on.
void download_blob(const std::string& url, const HubFile& file, const std::filesystem::path& blobs,
                   const DownloadOptions& options, const std::function<void(int64_t)>& progress);

struct HubText {
  std::string body;
  std::string revision;  // that the server says it is of; empty: it says none
};

// A small answer, tried again as above; at most 32 MB.
HubText get_text(const std::string& url, const DownloadOptions& options,
                 const std::function<void(int64_t)>& progress);

// Text as part of an address: all but letters, digits and -_.~ is escaped, slashes too.
std::string url_part(std::string_view text);

// Whether the text is `least` to `most` lower-case hexadecimal digits: a hash, a commit.
bool is_hex(std::string_view text, size_t least, size_t most);

}  // namespace nibble
