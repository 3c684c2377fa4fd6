#include "hub/http.h"

#include <curl/curl.h>
#include <dlfcn.h>

#include <cctype>
#include <charconv>
#include <exception>
#include <memory>
#include <type_traits>

#include "base/error.h"

namespace nibble {
namespace {

constexpr long kConnectSeconds = 30, kStalledSeconds = 60, kRedirects = 10;

// Opened when it is first needed: libcurl and what it brings would add 8 MB to every process that runs a
// model.
struct Libcurl {
  decltype(&curl_global_init) global_init;
  decltype(&curl_easy_init) easy_init;
  decltype(&curl_easy_cleanup) easy_cleanup;
  decltype(&curl_easy_setopt) easy_setopt;
  decltype(&curl_easy_perform) easy_perform;
  decltype(&curl_easy_getinfo) easy_getinfo;
  decltype(&curl_easy_strerror) easy_strerror;
  decltype(&curl_slist_append) slist_append;
  decltype(&curl_slist_free_all) slist_free_all;

  Libcurl() {
    void* library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("libcurl.so.4 is not here (Debian package libcurl4): {}", ::dlerror());
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      if (!function) fail("libcurl.so.4 has no {}", name);
    };
    find(global_init, "curl_global_init");
    find(easy_init, "curl_easy_init");
    find(easy_cleanup, "curl_easy_cleanup");
    find(easy_setopt, "curl_easy_setopt");
    find(easy_perform, "curl_easy_perform");
    find(easy_getinfo, "curl_easy_getinfo");
    find(easy_strerror, "curl_easy_strerror");
    find(slist_append, "curl_slist_append");
    find(slist_free_all, "curl_slist_free_all");
    if (global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) fail("libcurl could not be initialised");
  }
};

const Libcurl& libcurl() {
  static const Libcurl library;
  return library;
}

struct Transfer {
  CURL* curl;
  const HttpRequest* request;
  const HttpSink* sink;
  HttpAnswer answer;
  bool begun = false;
  std::exception_ptr thrown;

  bool success() const { return answer.status == 200 || answer.status == 206; }
};

// Runs what may throw inside of a C library; false once it has thrown.
template <typename Body>
bool guarded(Transfer& transfer, Body&& body) {
  try {
    body();
    return true;
  } catch (...) {
    transfer.thrown = std::current_exception();
    return false;
  }
}

size_t on_header(char* data, size_t, size_t size, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  std::string line(data, size);
  for (char& c : line) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  constexpr std::string_view kRange = "content-range: bytes ", kRevision = "x-revision:";
  if (line.starts_with("http/")) {
    t.answer.from = 0;  // of the next answer, after a redirect
    t.answer.revision.clear();
  } else if (line.starts_with(kRange)) {
    std::from_chars(line.data() + kRange.size(), line.data() + line.size(), t.answer.from);
  } else if (line.starts_with(kRevision)) {
    const size_t begin = line.find_first_not_of(" \t", kRevision.size());
    const size_t end = line.find_last_not_of(" \t\r\n");
    if (begin != std::string::npos && end >= begin) t.answer.revision = line.substr(begin, end + 1 - begin);
  }
  return size;
}

size_t on_body(char* data, size_t, size_t size, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const bool went_well = guarded(t, [&] {
    if (!t.begun) {
      long status = 0;
      libcurl().easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &status);
      t.answer.status = static_cast<int>(status);
      t.begun = true;
      if (t.success() && t.sink->begin) t.sink->begin(t.answer);
    }
    if (t.success()) t.sink->piece({data, size});
  });
  return went_well ? size : 0;
}

int on_idle(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  Transfer& t = *static_cast<Transfer*>(user);
  return !t.sink->idle || guarded(t, t.sink->idle) ? 0 : 1;
}

// Another try meets the same: a wrong address, a certificate that nobody vouches for, too many redirects.
bool cannot_mend(CURLcode code) {
  switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_TOO_MANY_REDIRECTS:
      return true;
    default:
      return false;
  }
}

}  // namespace

HttpAnswer http_get(const HttpRequest& request, const HttpSink& sink) {
  const Libcurl& lib = libcurl();
  const std::unique_ptr<CURL, decltype(lib.easy_cleanup)> curl(lib.easy_init(), lib.easy_cleanup);
  if (!curl) fail("libcurl could not be initialised");
  Transfer transfer{curl.get(), &request, &sink, {}, false, nullptr};
  char detail[CURL_ERROR_SIZE] = "";
  std::unique_ptr<curl_slist, decltype(lib.slist_free_all)> headers(nullptr, lib.slist_free_all);
  const auto set = [&](CURLoption option, auto value) { lib.easy_setopt(curl.get(), option, value); };
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_USERAGENT, "nibble");
  set(CURLOPT_ERRORBUFFER, static_cast<char*>(detail));
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, kRedirects);
  const char* protocols = request.url.starts_with("https:") ? "https" : "http,https";
  set(CURLOPT_PROTOCOLS_STR, protocols);
  set(CURLOPT_REDIR_PROTOCOLS_STR, protocols);
  set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);  // bytes a second, for as long as:
  set(CURLOPT_LOW_SPEED_TIME, kStalledSeconds);
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &on_idle);
  set(CURLOPT_XFERINFODATA, &transfer);
  if (!request.token.empty()) {
    headers.reset(lib.slist_append(nullptr, ("Authorization: Bearer " + request.token).c_str()));
    set(CURLOPT_HTTPHEADER, headers.get());
  }
  if (request.from > 0) set(CURLOPT_RANGE, fmt::format("{}-", request.from).c_str());

  const CURLcode code = lib.easy_perform(curl.get());
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);
  HttpAnswer answer = transfer.answer;
  long status = 0;
  lib.easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  answer.status = static_cast<int>(status);
  curl_off_t wait = 0;
  if (lib.easy_getinfo(curl.get(), CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0)
    answer.retry_after = static_cast<double>(wait);
  if (code != CURLE_OK) {
    answer.error = detail[0] != '\0' ? detail : lib.easy_strerror(code);
    answer.refused = cannot_mend(code);
  } else if (!transfer.begun && (answer.status == 200 || answer.status == 206) && sink.begin) {
    sink.begin(answer);  // of an empty body
  }
  return answer;
}

}  // namespace nibble
