// The language model that the tasks score: batches over the forward pass of model/forward_pass.h.
//
// Numbers do not depend on the batch: every row is computed as if it were alone. Memory is sized by
// the requests at hand, not by what the model allows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "eval/held_prompts.h"
#include "eval/language_model.h"
#include "model/forward_pass.h"

namespace nibble {

struct EngineOptions {
  int batch_tokens = 256;  // most tokens of one forward pass
  int slots = 8;           // most sequences at a time (`--batch`)
  int context = 0;         // most tokens of a sequence; 0: what the model allows
  Precision precision = {};

  void validate() const;  // throws UsageError
};

class Engine : public LanguageModel {
 public:
  Engine(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer,
         const EngineOptions& options, ThreadPool& pool);

  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  int max_context() const override;
  // Consecutive requests with one context run it once, and what it has in common with one that ran before
  // is not run again. Latency: of the requests computed together,
  // their wall time divided by their number.
  std::vector<LoglikResult> loglik(std::span<const LoglikRequest> requests,
                                   const ProgressFn& progress) override;
  // A sequence that ends makes room for the next; times count from when a sequence got its place. What a
  // prompt has in common with one that a slot still holds is not run again.
  std::vector<GenerateResult> generate(std::span<const GenerateRequest> requests,
                                       const ProgressFn& progress) override;
  std::vector<double> window_nll(std::span<const std::vector<int32_t>> windows,
                                 const ProgressFn& progress) override;

  const Model& model() const { return *model_; }
  // The largest so far, in bytes.
  uint64_t cache_bytes() const { return cache_bytes_; }
  uint64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  // Consecutive tokens of a slot, and tokens whose likelihood is asked for after some of them.
  struct Piece {
    int slot = 0, start = 0;
    std::vector<int32_t> tokens;
    std::vector<TokenQuestion> questions;  // row: index into tokens, ascending
    std::vector<TokenScore> scores;        // filled by run(), as `questions`
  };
  // Requests [first, first + count), which share their context.
  struct Group {
    size_t first = 0, count = 0;
  };

  // A session with at least this much; the one there is, or a new one that has just this.
  ForwardPass& session(int slots, int context);
  void run(ForwardPass& session, std::span<Piece> pieces);
  void score_round(ForwardPass& session, std::span<const LoglikRequest> requests,
                   std::span<const Group> groups, size_t round, HeldPrompts& held,
                   std::span<LoglikResult> results);
  // log p(gold | prompt), the prompt being in the slot's cache already.
  double score_gold(ForwardPass& session, int slot, const GenerateRequest& request);
  void note_memory(const ForwardPass& session);
  void check_length(const char* what, size_t index, size_t tokens) const;
  // Sequences of these lengths that run together from `first` on: one at least, `slots` at most.
  size_t take_together(std::span<const size_t> lengths, size_t first) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  EngineOptions options_;
  ThreadPool& pool_;
  std::unique_ptr<ForwardPass> session_;
  uint64_t cache_bytes_ = 0, workspace_bytes_ = 0;
};

}  // namespace nibble
