#include "hub/pull.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "hub/cache.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

void check_names(const PullOptions& o) {
  const size_t slash = o.id.find('/');
  const auto plain = [](std::string_view part) {
    return !part.empty() && part.front() != '.' && part.find("..") == std::string_view::npos &&
           std::all_of(part.begin(), part.end(),
                       [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
  };
  if (slash == std::string::npos || !plain(o.id.substr(0, slash)) || !plain(o.id.substr(slash + 1)))
    throw UsageError(fmt::format("'{}' is not ORG/NAME", o.id));
  if (o.revision.empty() || o.revision.front() == '/' || o.revision.find("..") != std::string::npos)
    throw UsageError(
        fmt::format("--revision '{}' is not the name of a branch, a tag or a commit", o.revision));
  if (!o.endpoint.starts_with("https://") && !o.endpoint.starts_with("http://"))
    throw UsageError(fmt::format("HF_ENDPOINT '{}' is not an address that starts with https://", o.endpoint));
}

bool is_complete(const fs::path& blob, uint64_t size) {
  std::error_code error;
  return fs::is_regular_file(blob, error) && fs::file_size(blob, error) == size && !error;
}

// Blobs in parallel; the first failure stops the others.
class Downloads {
 public:
  Downloads(const PullOptions& options, const HubListing& listing, std::vector<HubFile> files)
      : options_(options), listing_(listing), files_(std::move(files)) {}

  void run(uint64_t there, uint64_t total, const PullProgress& progress) {
    bytes_ = static_cast<int64_t>(there);
    std::vector<std::jthread> threads;
    const size_t n = std::min(files_.size(), static_cast<size_t>(std::max(1, options_.jobs)));
    working_ = n;
    for (size_t t = 0; t < n; ++t) threads.emplace_back([this] { work(); });
    std::unique_lock guard(mutex_);
    while (working_ > 0) {
      done_.wait_for(guard, std::chrono::milliseconds(100));
      guard.unlock();
      try {
        progress(static_cast<uint64_t>(std::max<int64_t>(0, bytes_)), total);
      } catch (...) {
        stop_ = true;
        guard.lock();
        if (!failure_) failure_ = std::current_exception();
        guard.unlock();
      }
      guard.lock();
    }
    guard.unlock();
    threads.clear();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  struct Stopped {};
  void work() {
    try {
      for (;;) {
        const size_t i = next_++;
        if (i >= files_.size()) break;
        const HubFile& file = files_[i];
        const std::string url = fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, options_.id,
                                            listing_.commit, url_part(file.name));
        download_blob(url, file, options_.repository / "blobs", options_.download, [this](int64_t bytes) {
          bytes_ += bytes;
          if (stop_) throw Stopped();
        });
      }
    } catch (const Stopped&) {
    } catch (...) {
      const std::lock_guard guard(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
    const std::lock_guard guard(mutex_);
    --working_;
    done_.notify_one();
  }

  const PullOptions& options_;
  const HubListing& listing_;
  const std::vector<HubFile> files_;
  std::atomic<size_t> next_ = 0;
  std::atomic<int64_t> bytes_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable done_;
  size_t working_ = 0;
  std::exception_ptr failure_;
};

void link_into(const fs::path& snapshot, const HubFile& file) {
  const fs::path link = snapshot / file.name, target = fs::path("../../blobs") / file.blob;
  std::error_code error;
  if (fs::read_symlink(link, error) == target && !error) return;
  fs::remove(link, error);
  fs::create_symlink(target, link, error);
  if (error) fail("{}: {}", link.string(), error.message());
}

Pulled find_offline(const PullOptions& o) {
  const std::string named = commit_of_ref(o.repository, o.revision),
                    commit = named.empty() ? o.revision : named;
  const fs::path snapshot = snapshot_path(o.repository, commit);
  std::error_code error;
  if (commit.find('/') != std::string::npos || !fs::is_directory(snapshot, error))
    fail("{}: revision {} is not in {}, and offline nothing is fetched", o.id, o.revision,
         o.repository.string());
  Pulled pulled{snapshot, commit, 0, 0, 0};
  for (const auto& entry : fs::directory_iterator(snapshot)) {
    if (!entry.is_regular_file())
      fail("{}: its blob is missing; pull without offline", entry.path().string());
    ++pulled.files;
    pulled.bytes += entry.file_size();
  }
  return pulled;
}

}  // namespace

Pulled pull_model(const PullOptions& options, const PullProgress& progress) {
  check_names(options);
  if (options.offline) return find_offline(options);
  const fs::path blobs = options.repository / "blobs";
  std::error_code error;
  fs::create_directories(blobs, error);
  if (error) fail("{}: {}", blobs.string(), error.message());
  const fs::path lock_file = options.repository / ".pull.lock";
  const FileLock lock(lock_file, 0,
                      fmt::format("{}: another pull of this repository is at work", lock_file.string()));

  const std::string api = fmt::format("{}/api/models/{}/revision/{}?blobs=true", options.endpoint, options.id,
                                      url_part(options.revision));
  const HubListing listing =
      read_listing(get_text(api, options.download, [&](int64_t) { progress(0, 0); }).body,
                   fmt::format("{} at {}", options.id, options.endpoint));
  Pulled pulled{snapshot_path(options.repository, listing.commit), listing.commit, listing.files.size(), 0,
                0};
  std::vector<HubFile> missing;
  std::set<std::string> asked;  // two names may have one blob
  uint64_t there = 0;
  for (const HubFile& file : listing.files) {
    if (!asked.insert(file.blob).second) continue;
    pulled.bytes += file.size;
    if (is_complete(blobs / file.blob, file.size))
      there += file.size;
    else
      missing.push_back(file);
  }
  const fs::space_info disk = fs::space(blobs, error);
  if (!error && disk.available < pulled.bytes - there) {
    uint64_t begun = 0;
    for (const HubFile& file : missing) {
      std::error_code none;
      const uintmax_t size = fs::file_size(blobs / (file.blob + ".incomplete"), none);
      if (!none) begun += size;
    }
    if (disk.available + begun < pulled.bytes - there)
      fail("{}: {} bytes are to come and {} are free; make room or set HF_HUB_CACHE to another disk",
           blobs.string(), pulled.bytes - there - std::min(begun, pulled.bytes - there), disk.available);
  }
  pulled.fetched = missing.size();
  if (!missing.empty()) Downloads(options, listing, std::move(missing)).run(there, pulled.bytes, progress);

  fs::create_directories(pulled.snapshot, error);
  if (error) fail("{}: {}", pulled.snapshot.string(), error.message());
  for (const HubFile& file : listing.files) link_into(pulled.snapshot, file);
  if (options.revision != listing.commit) {
    const fs::path ref = ref_path(options.repository, options.revision);
    fs::create_directories(ref.parent_path(), error);
    write_file_atomically(ref, listing.commit);
  }
  return pulled;
}

}  // namespace nibble
