// Tests only: a store in a temporary file with results that are known beforehand.
#pragma once

#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "eval/statistics.h"
#include "report/report.h"
#include "study/store.h"

namespace nibble::report::testing {

inline constexpr uint64_t kMegabyte = 1000000;

inline Variant baseline(const std::string& model) { return {model, "baseline", 16, 0}; }
inline Variant quantized(const std::string& model, const std::string& method, int group_size, int bits = 4) {
  return {model, method, bits, group_size};
}

inline const Variant kBase = baseline("alpha"), kGptq = quantized("alpha", "gptq", 64),
                     kGsq = quantized("alpha", "gsq", 64);

inline Cell done_cell(const Variant& variant, const std::string& task) {
  Cell cell;
  cell.variant = variant;
  cell.task = task;
  cell.status = CellStatus::kDone;
  cell.seconds = 3;
  const bool base = variant.is_baseline();
  cell.memory = MemoryBytes{base ? 20 * kMegabyte : 6 * kMegabyte,
                            base ? 20 * kMegabyte : 6 * kMegabyte,
                            5 * kMegabyte,
                            10 * kMegabyte,
                            base ? 60 * kMegabyte : 44 * kMegabyte,
                            0};
  return cell;
}

inline TaskResult& new_result(Cell& cell, const std::string& split) {
  TaskResult& r = cell.result.emplace();
  r.task = cell.task;
  r.split = split;
  r.data_sha256 = "data of " + cell.task;
  r.latency_ms = {12, 11.5, 14, 15.25, 19};
  r.prompt_tokens_per_s = cell.variant.is_baseline() ? 1000 : 1100;
  r.seconds = 2.5;
  return r;
}

inline void finish(TaskResult& r, const std::string& primary, double shift) {
  std::vector<double> scores;
  std::vector<std::string> clusters;
  for (Sample& s : r.samples) {
    scores.push_back(s.score);
    clusters.push_back(s.cluster);
    s.detail["gold_nll"] = 1.5 + shift;
  }
  r.rows = static_cast<int64_t>(r.samples.size());
  r.primary = primary;
  r.metrics[primary] = proportion_metric(scores, clusters);
}

// Tells the outputs of variants apart, as different weights do.
inline double shift_of(const Variant& v) {
  return v.is_baseline() ? 0 : 0.01 * static_cast<double>(v.method.size()) + 0.001 * v.group_size + 0.1;
}

// A yes/no task: row i is right where pattern[i] is '1'; the gold answers alternate.
inline Cell choice_cell(const Variant& variant, const std::string& pattern,
                        const std::string& task = "boolq") {
  Cell cell = done_cell(variant, task);
  TaskResult& r = new_result(cell, "validation");
  for (size_t i = 0; i < pattern.size(); ++i) {
    const bool gold = i % 2 == 0, answer = (pattern[i] == '1') == gold;
    Sample& s = r.samples.emplace_back();
    s.key = s.cluster = std::to_string(i);
    s.score = pattern[i] == '1';
    s.prediction = s.output = answer ? "yes" : "no";
    s.gold = gold ? "yes" : "no";
    s.prompt = "Question " + s.key;
    s.detail = {{"loglik_yes", -1.25 - shift_of(variant)}};
  }
  finish(r, "accuracy", shift_of(variant));
  return cell;
}

// r right, w wrong but whole, t cut at the token limit, e empty, b not in the asked form.
inline Cell math_cell(const Variant& variant, const std::string& pattern) {
  Cell cell = done_cell(variant, "gsm8k");
  TaskResult& r = new_result(cell, "test");
  r.shots = 5;
  r.first_token_ms = {5, 5, 6, 6, 7};
  r.per_token_ms = {1, 1, 1.5, 2, 3};
  r.output_tokens_per_s = variant.is_baseline() ? 50 : 80;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char state = pattern[i];
    Sample& s = r.samples.emplace_back();
    s.key = s.cluster = std::to_string(i);
    s.score = state == 'r';
    s.tokens = 20;
    s.gold = std::to_string(i * 7);
    s.prediction = state == 'r' ? s.gold : state == 'w' ? std::to_string(i * 7 + 1) : "";
    s.output = state == 'e' ? " " : "It is " + s.prediction;
    s.prompt = "Problem " + s.key;
    s.detail = {{"strict_match", state == 'r' || state == 'w'},
                {"finish", state == 't' ? "length" : "stop_string"},
                {"empty", state == 'e'}};
  }
  finish(r, "exact_match_flexible", shift_of(variant));
  return cell;
}

// Windows of 100 tokens whose NLL per token is mean ± 0.2 alternately, on top `wobble` of either sign.
inline Cell perplexity_cell(const Variant& variant, double mean_nll, double wobble = 0, int windows = 20) {
  Cell cell = done_cell(variant, "wikitext");
  TaskResult& r = new_result(cell, "test");
  std::vector<double> nll, tokens;
  for (int i = 0; i < windows; ++i) {
    Sample& s = r.samples.emplace_back();
    s.key = s.cluster = std::to_string(i);
    s.tokens = 100;
    s.score = 100 * (mean_nll + (i % 2 == 0 ? 0.2 : -0.2) + (i % 4 < 2 ? wobble : -wobble));
    s.detail = Json::object();
    nll.push_back(s.score);
    tokens.push_back(s.tokens);
  }
  r.rows = windows;
  r.primary = "ppl";
  r.higher_is_better = false;
  r.metrics["ppl"] = perplexity_metric(nll, tokens);
  return cell;
}

inline Cell bench_cell(const Variant& variant, double prefill, double decode, double sd = 1) {
  Cell cell = done_cell(variant, "bench");
  const auto test = [&](const char* name, double mean) {
    return Json{{"test", name},
                {"batch", 1},
                {"tokens_per_s", {{"mean", mean}, {"sd", sd}}},
                {"latency_ms", {{"p50", 1000 / mean}, {"p95", 1100 / mean}}}};
  };
  cell.bench = Json::array({test("pp512", prefill), test("tg128", decode)});
  return cell;
}

inline VariantFacts facts_of(const Variant& v) {
  VariantFacts facts;
  facts.sha256 = "weights of " + v.name();
  facts.parameters = 10 * kMegabyte;
  facts.file_bytes = v.is_baseline()
                         ? 20 * kMegabyte
                         : 5 * kMegabyte + 64 * kMegabyte / static_cast<uint64_t>(v.group_size * 2);
  facts.bits_per_weight = 8.0 * static_cast<double>(facts.file_bytes) / static_cast<double>(facts.parameters);
  facts.quantize_seconds = v.is_baseline() ? 0 : 12.25;
  if (!v.is_baseline()) facts.quantization_report = {{"linears", Json::array()}};
  return facts;
}

// As `nibble analyze --out` leaves it: of layer l the kind k'th linear has KL (l + 1)(k + 1)/1000.
inline Json analysis_of(const std::string& sha256, int layers, bool with_kl = true) {
  const std::vector<int> bits = {2, 4}, groups = {16, 64};
  Json json = {{"model", "any"},
               {"sha256", sha256},
               {"bits", bits},
               {"group_sizes", groups},
               {"symmetric", false},
               {"tokens", 4096},
               {"kl_positions", with_kl ? 256 : 0},
               {"linears", Json::array()},
               {"layers", Json::array()},
               {"probe", {{"bits", 4}, {"group_size", 64}, {"symmetric", false}}}};
  for (int l = 0; l < layers; ++l) {
    int k = 0;
    for (const char* kind : {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"}) {
      Json errors = Json::object();
      for (const int b : bits) {
        for (const int g : groups)
          errors[std::to_string(b)][std::to_string(g)] = 0.001 * (l + 1) * g / (b * b) * (k + 1);
      }
      json["linears"].push_back({{"name", fmt::format("model.layers.{}.{}", l, kind)},
                                 {"layer", l},
                                 {"shape", {64, 64}},
                                 {"errors", errors},
                                 {"growth", 4.0},
                                 {"probe_error", errors["4"]["64"]},
                                 {"kl", with_kl ? Json(0.001 * (l + 1) * (k + 1)) : Json()}});
      ++k;
    }
    const Json kl = with_kl ? Json{{"16", 0.01 * (l + 1)}, {"64", 0.02 * (l + 1)}} : Json::object();
    json["layers"].push_back({{"layer", l}, {"kl", kl}, {"growth", 2.0}});
  }
  return json;
}

// `pattern` with the characters at `where` turned over ('1' ↔ '0').
inline std::string flipped(std::string pattern, const std::vector<size_t>& where) {
  for (const size_t i : where) pattern[i] = pattern[i] == '1' ? '0' : '1';
  return pattern;
}

// 100 rows, 80 of them right, spread over both gold answers.
inline std::string eighty_right() {
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += i % 10 < 8 ? '1' : '0';
  return pattern;
}

// Overwritten cell by cell in the tests. As it is, no rule finds anything.
class SyntheticStudy {
 public:
  SyntheticStudy() : dir_(make_dir()), store_(Store::open(dir_ / "results.db")) {}
  ~SyntheticStudy() { std::filesystem::remove_all(dir_); }
  SyntheticStudy(const SyntheticStudy&) = delete;
  SyntheticStudy& operator=(const SyntheticStudy&) = delete;

  Store& store() { return store_; }
  const std::filesystem::path& dir() const { return dir_; }

  // Baseline, gptq g64, gsq g64 on four tasks; small losses and gains that cannot be told from none.
  void add_healthy_model(const std::string& model) {
    const Variant base = baseline(model), gptq = quantized(model, "gptq", 64),
                  gsq = quantized(model, "gsq", 64);
    for (const Variant& v : {base, gptq, gsq}) store_.set_facts(v, facts_of(v));
    const std::string right = eighty_right();
    store_.save(choice_cell(base, right));
    store_.save(choice_cell(gptq, flipped(right, {0, 1, 8, 12})));
    store_.save(choice_cell(gsq, flipped(right, {2, 9, 28})));
    const std::string math = std::string(60, 'r') + std::string(30, 'w') + std::string(10, 't');
    store_.save(math_cell(base, math));
    store_.save(math_cell(gptq, "w" + math.substr(1, 59) + "r" + math.substr(61)));
    store_.save(math_cell(gsq, "ww" + math.substr(2, 58) + "r" + math.substr(61)));
    store_.save(perplexity_cell(base, 1.5));
    store_.save(perplexity_cell(gptq, 1.53, 0.01));
    store_.save(perplexity_cell(gsq, 1.53, -0.01));
    store_.save(bench_cell(base, 400, 20));
    store_.save(bench_cell(gptq, 420, 45));
    store_.save(bench_cell(gsq, 400, 44));
  }

 private:
  static std::filesystem::path make_dir() {
    std::string name = (std::filesystem::temp_directory_path() / "nibble_report_XXXXXX").string();
    if (!::mkdtemp(name.data())) fail("{}: cannot make a directory", name);
    return name;
  }
  std::filesystem::path dir_;
  Store store_;
};

}  // namespace nibble::report::testing
