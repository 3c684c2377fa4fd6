// A model of a Hugging Face hub into the hub's cache layout (hub/cache.h), which transformers and others
// share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/download.h"

namespace nibble {

struct PullOptions {
  std::string id;                 // ORG/NAME
  std::string revision = "main";  // a branch, a tag or a commit
  std::string endpoint = "https://huggingface.co";
  std::filesystem::path repository;  // models--ORG--NAME in the cache
  bool offline = false;              // only what is there
  int jobs = 4;                      // files side by side
  DownloadOptions download;
};

struct Pulled {
  std::filesystem::path snapshot;
  std::string commit;
  size_t files = 0, fetched = 0;  // of them new
  uint64_t bytes = 0;             // of all files
};

// Bytes that are there of those that are to be; called from one thread, may throw to stop.
using PullProgress = std::function<void(uint64_t done, uint64_t total)>;

// Takes safetensors, configurations and tokenizers. A repository without safetensors is refused: pickles run
// code. Blobs that are there are not fetched again, parts of blobs are gone on from. refs/REVISION is written
// last. Throws Error in one line.
Pulled pull_model(const PullOptions& options, const PullProgress& progress);

// The files of a repository that a pull takes, from the hub's answer to
// api/models/ORG/NAME/revision/REVISION?blobs=true. Names, ids and sizes are checked. Throws Error.
struct HubListing {
  std::string commit;
  std::vector<HubFile> files;
};
HubListing read_listing(std::string_view json, const std::string& where);

}  // namespace nibble
