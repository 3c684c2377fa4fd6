// HTTP GET through libcurl: redirects, ranges, proxies of the environment, certificates of the system.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

struct HttpRequest {
  std::string url;    // http or https; only https where it was https, redirects included
  std::string token;  // sent as a bearer token to the first host alone; never part of a message
  uint64_t from = 0;  // first byte wanted
};

struct HttpAnswer {
  int status = 0;                     // 0: no answer came
  uint64_t from = 0;                  // first byte of the body: 0 where the server ignored the range
  std::optional<double> retry_after;  // seconds
  std::string revision;               // of the header X-Revision
  std::string error;                  // of the transfer, empty where the body came whole
  bool refused = false;               // the error is not one that another try could mend
};

// Called with the answer before its body, if it is a success; then with pieces of the body. What they throw
// ends the transfer and comes out of get().
struct HttpSink {
  std::function<void(const HttpAnswer&)> begin;
  std::function<void(std::string_view)> piece;
  std::function<void()> idle;  // about once a second and between pieces: may throw to stop
};

// Bodies of answers other than 200 and 206 are dropped. Throws only what the sink throws.
HttpAnswer http_get(const HttpRequest& request, const HttpSink& sink);

}  // namespace nibble
