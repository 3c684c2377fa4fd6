// For tests: a model whose answers are given functions of text, on a mini model's tokenizer.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "eval/language_model.h"
#include "test_data.h"

namespace nibble::testing {

inline Tokenizer mini_tokenizer(const std::string& model) {
  const auto path = mini_dir() / "models" / model / "tokenizer.json";
  return Tokenizer::from_json(read_json_file(path), path.string());
}

class FakeLanguageModel : public LanguageModel {
 public:
  explicit FakeLanguageModel(const std::string& model = "llama-mini", int max_context = 1024)
      : tokenizer_(mini_tokenizer(model)), max_context_(max_context) {}

  // By default a score from the token ids alone, between −6 and 0 a token.
  std::function<double(const std::string& context, const std::string& continuation)> loglik_of;
  std::function<GenerateResult(const std::string& prompt)> answer_of;
  std::function<double(size_t window)> nll_of;
  std::vector<LoglikRequest> loglik_requests;  // of the last call
  std::vector<GenerateRequest> generate_requests;
  std::vector<std::vector<int32_t>> windows;

  const Tokenizer& tokenizer() const override { return tokenizer_; }
  int max_context() const override { return max_context_; }

  std::vector<LoglikResult> loglik(std::span<const LoglikRequest> requests,
                                   const ProgressFn& progress) override {
    loglik_requests.assign(requests.begin(), requests.end());
    std::vector<LoglikResult> results;
    for (const LoglikRequest& request : requests) {
      if (request.context.empty() || request.continuation.empty()) fail("an empty request");
      results.push_back({loglik_after(request.context, request.continuation), false,
                         2.0 + static_cast<double>(results.size() % 2)});
      if (progress) progress(results.size(), requests.size());
    }
    return results;
  }

  std::vector<GenerateResult> generate(std::span<const GenerateRequest> requests,
                                       const ProgressFn& progress) override {
    generate_requests.assign(requests.begin(), requests.end());
    std::vector<GenerateResult> results;
    for (const GenerateRequest& request : requests) {
      if (request.prompt.empty()) fail("an empty request");
      check_length(request.prompt.size() + static_cast<size_t>(request.max_new_tokens));
      results.push_back(answer_of(tokenizer_.decode(request.prompt)));
      if (!request.gold.empty()) results.back().gold_loglik = loglik_after(request.prompt, request.gold);
      if (progress) progress(results.size(), requests.size());
    }
    return results;
  }

  std::vector<double> window_nll(std::span<const std::vector<int32_t>> given,
                                 const ProgressFn& progress) override {
    windows.assign(given.begin(), given.end());
    std::vector<double> results;
    for (const std::vector<int32_t>& window : given) {
      check_length(window.size());
      double sum = 0;
      for (size_t i = 1; i < window.size(); ++i) sum += token_nll(window[i - 1], window[i]);
      results.push_back(nll_of ? nll_of(results.size()) : sum);
      if (progress) progress(results.size(), given.size());
    }
    return results;
  }

 private:
  double loglik_after(const std::vector<int32_t>& context, const std::vector<int32_t>& continuation) const {
    check_length(context.size() + continuation.size());
    if (loglik_of) return loglik_of(tokenizer_.decode(context), tokenizer_.decode(continuation));
    double sum = 0;
    int32_t before = context.back();
    for (const int32_t token : continuation) sum -= token_nll(std::exchange(before, token), token);
    return sum;
  }
  static double token_nll(int32_t before, int32_t token) {
    return static_cast<double>(
               (static_cast<uint32_t>(before) * 7919u + static_cast<uint32_t>(token) * 104729u) % 601) /
           100;
  }
  void check_length(size_t tokens) const {
    if (tokens > static_cast<size_t>(max_context_))
      fail("{} tokens, the context is {}", tokens, max_context_);
  }

  Tokenizer tokenizer_;
  int max_context_;
};

// A folder that is removed at the end of the test.
class TemporaryDir {
 public:
  TemporaryDir() {
    std::string name = (std::filesystem::temp_directory_path() / "nibble_eval_XXXXXX").string();
    if (!mkdtemp(name.data())) fail("cannot make a temporary folder");
    path_ = name;
  }
  ~TemporaryDir() { std::filesystem::remove_all(path_); }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  std::filesystem::path path_;
};

// The message of the Error that `call` throws; empty when it throws none.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace nibble::testing
