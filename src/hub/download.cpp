#include "hub/download.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "hub/http.h"
#include "hub/partial_file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestText = size_t{32} << 20;

// What stays wrong however often it is asked for.
[[noreturn]] void refuse(const std::string& url, int status, const DownloadOptions& options) {
  const bool with_token = !options.token.empty();
  switch (status) {
    case 401:
      fail("{}: the server wants to know who asks (401){}", url,
           with_token ? "; it does not accept this HF_TOKEN"
                      : "; set HF_TOKEN to a token that may read it, or check the name");
    case 403:
      fail("{}: access refused (403); accept the {}'s terms on its page, with the account of HF_TOKEN", url,
           options.subject);
    case 404:
      fail("{}: not there (404); check {}", url, options.named_by);
    default:
      fail("{}: the server answers {}", url, status);
  }
}

bool passing(int status) { return status == 408 || status == 425 || status == 429 || status >= 500; }

// Tries of one request, with pauses that grow while nothing comes.
class Patience {
 public:
  Patience(const std::string& url, const DownloadOptions& options,
           const std::function<void(int64_t)>& progress)
      : url_(url), options_(options), progress_(progress) {}

  // After an answer that did not bring what was wanted; throws when that was the last try. `came`: bytes that
  // did come.
  void wait(const HttpAnswer& answer, uint64_t came) {
    failed_ = came > 0 ? 1 : failed_ + 1;
    const bool has_status = answer.status != 0 && answer.status != 200 && answer.status != 206;
    const std::string what = has_status ? fmt::format("the server answers {}{}", answer.status,
                                                      answer.status == 429 ? ", too many requests" : "")
                                        : answer.error;
    if (answer.refused) fail("{}: {}", url_, what);
    if (failed_ >= options_.tries)
      fail("{}: {} ({} tries); what has come is kept, the same command goes on", url_, what, failed_);
    double seconds = options_.first_wait * static_cast<double>(1 << std::min(failed_ - 1, 20));
    if (answer.retry_after) seconds = *answer.retry_after;
    pause(std::min(seconds, options_.longest_wait));
  }

 private:
  void pause(double seconds) {
    using namespace std::chrono;
    const auto end = steady_clock::now() + duration<double>(seconds);
    while (steady_clock::now() < end) {
      progress_(0);
      std::this_thread::sleep_for(std::min<duration<double>>(end - steady_clock::now(), milliseconds(100)));
    }
  }

  const std::string& url_;
  const DownloadOptions& options_;
  const std::function<void(int64_t)>& progress_;
  int failed_ = 0;
};

}  // namespace

void download_blob(const std::string& url, const HubFile& file, const fs::path& blobs,
                   const DownloadOptions& options, const std::function<void(int64_t)>& progress) {
  PartialFile partial(blobs / (file.blob + ".incomplete"));
  Patience patience(url, options, progress);
  const auto start_again = [&] {
    progress(-static_cast<int64_t>(partial.size()));
    partial.clear();
  };
  progress(static_cast<int64_t>(partial.size()));
  if (partial.size() > file.size) start_again();
  for (bool hash_was_wrong = false;;) {
    while (partial.size() < file.size || file.size == 0) {
      const uint64_t before = partial.size();
      uint64_t came = 0;
      HttpSink sink;
      sink.begin = [&](const HttpAnswer& answer) {
        if (answer.from != partial.size()) start_again();
        if (answer.from > 0 && partial.size() == 0)
          fail("{}: the server sent another part than was asked for", url);
      };
      sink.piece = [&](std::string_view piece) {
        if (piece.size() > file.size - partial.size())
          fail("{}: more than the {} bytes that the server had named", url, file.size);
        partial.append(piece);
        came += piece.size();
        progress(static_cast<int64_t>(piece.size()));
      };
      sink.idle = [&] { progress(0); };
      const HttpAnswer answer = http_get({url, options.token, before}, sink);
      if (partial.size() == file.size && answer.error.empty() &&
          (answer.status == 200 || answer.status == 206))
        break;
      if (answer.status == 416) {
        start_again();
      } else if (answer.status >= 400 && !passing(answer.status)) {
        refuse(url, answer.status, options);
      }
      if (partial.size() == file.size && file.size > 0) break;
      HttpAnswer said = answer;
      if (said.error.empty() && said.status < 400)
        said.error = fmt::format("the connection ended after {} of {} bytes", partial.size(), file.size);
      patience.wait(said, came);
    }
    if (file.sha256.empty() || partial.sha256() == file.sha256) break;
    const std::string found = partial.sha256();
    start_again();
    if (hash_was_wrong)
      fail("{}: sha256 is {}, the repository says {}, twice: nothing of it is kept", url, found, file.sha256);
    hash_was_wrong = true;
  }
  partial.become(blobs / file.blob);
}

HubText get_text(const std::string& url, const DownloadOptions& options,
                 const std::function<void(int64_t)>& progress) {
  Patience patience(url, options, progress);
  for (;;) {
    std::string body;
    HttpSink sink;
    sink.begin = [&](const HttpAnswer&) { body.clear(); };
    sink.piece = [&](std::string_view piece) {
      if (body.size() + piece.size() > kLargestText)
        fail("{}: an answer of more than {} bytes", url, kLargestText);
      body += piece;
    };
    sink.idle = [&] { progress(0); };
    const HttpAnswer answer = http_get({url, options.token, 0}, sink);
    if (answer.status == 200 && answer.error.empty()) return {std::move(body), answer.revision};
    if (answer.status >= 400 && !passing(answer.status)) refuse(url, answer.status, options);
    HttpAnswer said = answer;
    if (said.error.empty() && said.status < 400) fail("{}: the server answers {}", url, said.status);
    patience.wait(said, 0);
  }
}

std::string url_part(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~')
      out += c;
    else
      out += fmt::format("%{:02X}", byte);
  }
  return out;
}

bool is_hex(std::string_view text, size_t least, size_t most) {
  return text.size() >= least && text.size() <= most &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isdigit(c) || (c >= 'a' && c <= 'f'); });
}

}  // namespace nibble
