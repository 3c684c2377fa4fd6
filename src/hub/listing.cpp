#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/json.h"
#include "hub/pull.h"

namespace nibble {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 50;

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view e) { return name.ends_with(e); });
}

// A plain file name: a listing must not lead out of the snapshot's folder.
bool is_plain(std::string_view name) {
  return !name.empty() && name.size() < 256 && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return c > ' ' && c != '/' && c != '\\' && c < 127; });
}

bool is_wanted(std::string_view name) {
  if (name.find('/') != std::string_view::npos) return false;  // other formats of the same weights
  return ends_with_any(name, {".safetensors", ".json"}) || name == "merges.txt" ||
         name.starts_with("LICENSE");
}

uint64_t read_size(const Json& entry, const std::string& name, const std::string& where) {
  const auto size = json_get<int64_t>(entry, "size", where);
  if (size < 0 || size > kLargestFile) fail("{}: {} bytes is no size of '{}'", where, size, name);
  return static_cast<uint64_t>(size);
}

HubFile read_file_entry(const Json& entry, const std::string& name, const std::string& where) {
  HubFile file;
  file.name = name;
  const Json lfs = json_get_or<Json>(entry, "lfs", nullptr, where);
  if (lfs.is_object()) {
    file.sha256 = json_get<std::string>(lfs, "sha256", where);
    file.size = read_size(lfs, name, where);
    file.blob = file.sha256;
    if (!is_hex(file.sha256, 64, 64)) fail("{}: the sha256 of '{}' is not one", where, name);
  } else {
    file.blob = json_get<std::string>(entry, "blobId", where);
    file.size = read_size(entry, name, where);
    if (!is_hex(file.blob, 40, 64)) fail("{}: the id of '{}' is not one", where, name);
  }
  return file;
}

}  // namespace

HubListing read_listing(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  HubListing listing;
  listing.commit = json_get<std::string>(json, "sha", where);
  if (!is_hex(listing.commit, 40, 64))
    fail("{}: the commit '{}' is not one", where, listing.commit.substr(0, 80));
  std::vector<std::string> pickles, ggufs;
  bool safetensors = false, model_named = false;
  for (const Json& entry : json_get<Json>(json, "siblings", where)) {
    const std::string name = json_get<std::string>(entry, "rfilename", where);
    if (ends_with_any(name, {".bin", ".pt", ".pth", ".ckpt", ".pkl"})) pickles.push_back(name);
    if (name.ends_with(".gguf")) ggufs.push_back(name);
    if (!is_wanted(name)) continue;
    if (!is_plain(name)) fail("{}: the file name '{}' is none that can be kept", where, name.substr(0, 80));
    safetensors |= name.ends_with(".safetensors");
    model_named |= name.starts_with("model") && name.ends_with(".safetensors");
    listing.files.push_back(read_file_entry(entry, name, where));
  }
  if (!safetensors && !pickles.empty())
    fail("{}: only pickled weights ({}), which can run code when they are opened; only safetensors are taken",
         where, pickles.front());
  if (!safetensors && !ggufs.empty())
    fail("{}: no safetensors; it has GGUF files: download the one you want and name its path", where);
  if (!safetensors) fail("{}: no safetensors, so no weights", where);
  // Beside model*.safetensors, others are the same weights under other names (consolidated.safetensors).
  std::erase_if(listing.files, [&](const HubFile& f) {
    return model_named && f.name.ends_with(".safetensors") && !f.name.starts_with("model");
  });
  return listing;
}

}  // namespace nibble
