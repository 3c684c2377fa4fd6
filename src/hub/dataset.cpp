#include "hub/dataset.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "hub/partial_file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPageRows = 100;  // the most that the server gives

fs::path beside(const fs::path& file, const char* suffix) { return file.string() + suffix; }

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// What the file is, and how far it is whole: FILE.source.json, FILE.incomplete.json.
struct State {
  std::string revision, sha256;
  uint64_t rows = 0, rows_in_split = 0, bytes = 0;
  bool partial = false;

  OrderedJson json(const DatasetSource& source, const DatasetPullOptions& o) const {
    return {{"dataset", source.id},
            {"config", source.config},
            {"split", o.split},
            {"revision", revision.empty() ? OrderedJson(nullptr) : OrderedJson(revision)},
            {"server", o.endpoint},
            {"rows", rows},
            {"rows_in_split", rows_in_split},
            {"server_has_part_of_split", partial},
            {"bytes", bytes},
            {"sha256", sha256}};
  }
  void take(const DatasetPage& page, const std::string& page_revision) {
    rows_in_split = page.rows_in_split;
    partial = page.partial;
    revision = page_revision;
  }
  bool is_of(const DatasetPage& page, const std::string& page_revision) const {
    return revision == page_revision && rows_in_split == page.rows_in_split && partial == page.partial;
  }
  uint64_t wanted(uint64_t limit) const { return limit > 0 ? std::min(limit, rows_in_split) : rows_in_split; }
};

// Throws Error where the file is of another split or makes no sense.
State read_state(const fs::path& path, const DatasetSource& source, const DatasetPullOptions& o) {
  const std::string where = path.string();
  const Json json = read_json_file(path, 1 << 16);
  State state;
  const auto is = [&](const char* key, std::string_view value) {
    if (const auto found = json_get<std::string>(json, key, where); found != value)
      fail("{}: {} is '{}' there, not '{}'; name another --out", where, key, found.substr(0, 80), value);
  };
  is("dataset", source.id);
  is("config", source.config);
  is("split", o.split);
  state.revision = json_get_or<std::string>(json, "revision", "", where);
  state.rows = json_get<uint64_t>(json, "rows", where);
  state.rows_in_split = json_get<uint64_t>(json, "rows_in_split", where);
  state.partial = json_get<bool>(json, "server_has_part_of_split", where);
  state.bytes = json_get<uint64_t>(json, "bytes", where);
  state.sha256 = json_get<std::string>(json, "sha256", where);
  if (state.rows > state.rows_in_split) fail("{}: {} rows of {}", where, state.rows, state.rows_in_split);
  return state;
}

class DatasetPull {
 public:
  DatasetPull(const DatasetPullOptions& options, const RowProgress& progress)
      : o_(options), source_(find_dataset(options.dataset)), progress_(progress) {
    if (std::find(source_.splits.begin(), source_.splits.end(), o_.split) == source_.splits.end()) {
      std::string known;
      for (const std::string_view s : source_.splits)
        known += fmt::format("{}{}", known.empty() ? "" : ", ", s);
      throw UsageError(fmt::format("{} has no split '{}'; there are {}", source_.name, o_.split, known));
    }
    if (!o_.endpoint.starts_with("https://") && !o_.endpoint.starts_with("http://"))
      throw UsageError(
          fmt::format("the datasets server '{}' is not an address that starts with https://", o_.endpoint));
  }

  PulledDataset run() {
    if (o_.offline) {
      if (!is_there(source_file_)) fail("{}: not there, and offline nothing is fetched", o_.file.string());
      const State state = read_whole();
      if (state.rows != state.wanted(o_.limit))
        fail("{}: has {} rows, not {}, and offline nothing is fetched", o_.file.string(), state.rows,
             state.wanted(o_.limit));
      return result(state, 0);
    }
    if (o_.file.has_parent_path()) {
      std::error_code error;
      fs::create_directories(o_.file.parent_path(), error);
      if (error) fail("{}: {}", o_.file.parent_path().string(), error.message());
    }
    const FileLock lock(incomplete_, 0, fmt::format("{}: another pull is at work on it", o_.file.string()));
    const struct RemoveEmpty {
      const fs::path& path;
      ~RemoveEmpty() {
        std::error_code error;
        if (fs::file_size(path, error) == 0 && !error) fs::remove(path, error);
      }
    } remove_empty{incomplete_};
    const State begun = left_over();
    if (is_there(o_.file) && !only_to_be_renamed(begun)) {
      const State state = read_whole();
      const auto [page, revision] = fetch(0, 1);
      if (state.is_of(page, revision) && state.rows == state.wanted(o_.limit)) return result(state, 0);
    }
    return fetch_all(begun);
  }

 private:
  // An earlier pull ended between its last two steps.
  bool only_to_be_renamed(const State& begun) const {
    return begun.rows > 0 && is_there(source_file_) &&
           read_state(source_file_, source_, o_).sha256 == begun.sha256;
  }

  // The state of a file that a pull brought and nobody changed.
  State read_whole() const {
    if (!is_there(source_file_))
      fail("{}: is there and no pull brought it; name another --out", o_.file.string());
    const State state = read_state(source_file_, source_, o_);
    std::error_code error;
    const bool same_size = fs::file_size(o_.file, error) == state.bytes && !error;
    Sha256 hash;
    if (same_size) hash.update(MappedFile::open(o_.file)->bytes());
    if (!same_size || hash.hex() != state.sha256)
      fail("{}: is not what {} says; remove both, or name another --out", o_.file.string(),
           source_file_.string());
    return state;
  }

  std::pair<DatasetPage, std::string> fetch(uint64_t offset, uint64_t length) const {
    const std::string url =
        fmt::format("{}/rows?dataset={}&config={}&split={}&offset={}&length={}", o_.endpoint,
                    url_part(source_.id), url_part(source_.config), url_part(o_.split), offset, length);
    const HubText answer = get_text(url, o_.download, [&](int64_t) { progress_(done_, total_); });
    if (!answer.revision.empty() && !is_hex(answer.revision, 40, 64))
      fail("{}: the revision that it names is not one", url);
    return {read_page(answer.body, source_, offset, length, url), answer.revision};
  }

  // What an earlier pull left, where it still fits; else nothing.
  State left_over() const {
    const fs::path path = beside(incomplete_, ".json");
    if (!is_there(path)) return {};
    try {
      return read_state(path, source_, o_);
    } catch (const Error&) {  // of another split, or damaged: not worth more than a new start
      return {};
    }
  }

  PulledDataset fetch_all(State state) {
    if (o_.limit > 0 && state.rows > o_.limit) state = {};
    PartialFile partial(incomplete_, state.bytes);
    if (partial.size() != state.bytes || partial.sha256() != state.sha256) {
      partial.clear();
      state = {};
    }
    done_ = state.rows;
    total_ = state.wanted(o_.limit);
    uint64_t fetched = 0;
    for (bool changed = false;;) {
      const bool knows = state.rows > 0;
      const uint64_t most = knows ? std::min(kPageRows, state.wanted(o_.limit) - state.rows)
                                  : std::min(kPageRows, o_.limit > 0 ? o_.limit : kPageRows);
      if (knows && most == 0) break;
      const auto [page, revision] = fetch(state.rows, most);
      if (knows && !state.is_of(page, revision)) {
        if (changed) fail("{}: the data set changed twice while it was read; try again later", source_.id);
        changed = true;
        partial.clear();
        state = {};
        fetched = 0;
        continue;
      }
      state.take(page, revision);
      partial.append(page.text);
      state.rows += page.rows;
      fetched += page.rows;
      state.bytes = partial.size();
      state.sha256 = partial.sha256();
      if (state.rows == 0) fail("{}: the split {} is empty", source_.id, o_.split);
      write_file_atomically(beside(incomplete_, ".json"), state.json(source_, o_).dump(2) + "\n");
      done_ = state.rows;
      total_ = state.wanted(o_.limit);
      progress_(done_, total_);
    }
    write_file_atomically(source_file_, state.json(source_, o_).dump(2) + "\n");
    partial.become(o_.file);
    fs::remove(beside(incomplete_, ".json"));
    return result(state, fetched);
  }

  PulledDataset result(const State& s, uint64_t fetched) const {
    return {o_.file, s.revision, s.sha256, s.rows, s.rows_in_split, fetched, s.partial};
  }

  const DatasetPullOptions& o_;
  const DatasetSource& source_;
  const RowProgress& progress_;
  const fs::path source_file_ = beside(o_.file, ".source.json");
  const fs::path incomplete_ = beside(o_.file, ".incomplete");
  uint64_t done_ = 0, total_ = 0;
};

}  // namespace

PulledDataset pull_dataset(const DatasetPullOptions& options, const RowProgress& progress) {
  return DatasetPull(options, progress).run();
}

}  // namespace nibble
