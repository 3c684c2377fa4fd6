// Greedy generation: sequences enter and leave the batch one by one.
#include <algorithm>
#include <optional>

#include "base/stopwatch.h"
#include "eval/engine.h"
#include "eval/generated_text.h"

namespace nibble {
namespace {

// A request that has a slot.
struct Sequence {
  Sequence(size_t index_, const GenerateRequest& request_, const Tokenizer& tokenizer)
      : index(index_), request(&request_), text(tokenizer, request_.stop) {}

  bool in_prompt() const { return fed < request->prompt.size(); }

  size_t index;  // of the request
  const GenerateRequest* request;
  size_t fed = 0;    // tokens in the cache
  int32_t next = 0;  // to be fed once the prompt is through
  Stopwatch watch;
  double paused_ms = 0;  // while gold answers were scored
  GenerateResult result;
  GeneratedText text;
};

// Takes the token in; true when it was the last.
bool accept(Sequence& sequence, int32_t token, std::span<const int32_t> end_tokens) {
  GenerateResult& result = sequence.result;
  const double ms = sequence.watch.seconds() * 1000 - sequence.paused_ms;
  if (result.tokens.empty()) result.first_token_ms = ms;
  result.total_ms = ms;
  if (std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end()) {
    result.finish = FinishReason::kEndToken;
    return true;
  }
  result.tokens.push_back(token);
  sequence.next = token;
  if (sequence.text.add(token)) {
    result.finish = FinishReason::kStopString;
    return true;
  }
  result.finish = FinishReason::kLength;
  return result.tokens.size() == static_cast<size_t>(sequence.request->max_new_tokens);
}

// A row of the batch after which a sequence's next token is asked for.
struct Row {
  size_t slot, row;
};

// One token of every sequence that generates, then as much of the prompts as there is room for.
std::vector<Row> fill(Batch& batch, std::vector<std::optional<Sequence>>& slots, size_t room,
                      HeldPrompts& held, ForwardPass& session) {
  batch.clear();
  std::vector<Row> rows;
  for (size_t s = 0; s < slots.size(); ++s) {
    if (!slots[s] || slots[s]->in_prompt()) continue;
    rows.push_back({s, batch.tokens.size()});
    batch.add_found(static_cast<int>(s), static_cast<int>(slots[s]->fed), slots[s]->next);
    ++slots[s]->fed;
  }
  for (size_t s = 0; s < slots.size(); ++s) {
    if (!slots[s] || !slots[s]->in_prompt()) continue;
    Sequence& sequence = *slots[s];
    const std::vector<int32_t>& prompt = sequence.request->prompt;
    if (batch.tokens.size() == room) break;
    if (sequence.fed == 0) {
      sequence.fed = held.take(session, static_cast<int>(s), prompt);
      sequence.result.reused_tokens = static_cast<int>(sequence.fed);
    }
    const size_t count = std::min(room - batch.tokens.size(), prompt.size() - sequence.fed);
    batch.add(static_cast<int>(s), static_cast<int>(sequence.fed),
              std::span(prompt).subspan(sequence.fed, count));
    sequence.fed += count;
    if (!sequence.in_prompt()) rows.push_back({s, batch.tokens.size() - 1});
  }
  return rows;
}

}  // namespace

// The prompt's last token runs again, for what is asked after it. What is written behind the prompt,
// the sequence's own tokens overwrite.
double Engine::score_gold(ForwardPass& session, int slot, const GenerateRequest& request) {
  Piece piece;
  piece.slot = slot;
  piece.start = static_cast<int>(request.prompt.size()) - 1;
  piece.tokens.push_back(request.prompt.back());
  piece.tokens.insert(piece.tokens.end(), request.gold.begin(), request.gold.end() - 1);
  for (size_t i = 0; i < request.gold.size(); ++i) piece.questions.push_back({i, request.gold[i]});
  run(session, std::span(&piece, 1));
  double loglik = 0;
  for (const TokenScore& score : piece.scores) loglik += score.loglik;
  return loglik;
}

std::vector<GenerateResult> Engine::generate(std::span<const GenerateRequest> requests,
                                             const ProgressFn& progress) {
  std::vector<GenerateResult> results(requests.size());
  if (requests.empty()) return results;
  size_t longest = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].prompt.empty() || requests[i].max_new_tokens < 1)
      fail("{}: request {} lacks a prompt, or asks for no token", model_->name(), i);
    const size_t after = std::max(static_cast<size_t>(requests[i].max_new_tokens), requests[i].gold.size());
    const size_t tokens = requests[i].prompt.size() + after;
    check_length("prompt and answer of request", i, tokens);
    longest = std::max(longest, tokens);
  }
  const size_t n_slots = std::min(static_cast<size_t>(options_.slots), requests.size());
  ForwardPass& session = this->session(static_cast<int>(n_slots), static_cast<int>(longest));

  HeldPrompts held(session.options().slots);
  std::vector<std::optional<Sequence>> slots(n_slots);
  Batch batch;
  std::vector<size_t> rows;
  std::vector<int32_t> best;
  for (size_t begun = 0, done = 0; done < requests.size();) {
    for (std::optional<Sequence>& slot : slots) {
      if (slot || begun == requests.size()) continue;
      slot.emplace(begun, requests[begun], *tokenizer_);
      ++begun;
    }
    const size_t room = static_cast<size_t>(session.options().batch_tokens);
    const std::vector<Row> asked = fill(batch, slots, room, held, session);
    session.forward(batch);
    for (const Segment& segment : batch.segments) {
      const Sequence& sequence = *slots[static_cast<size_t>(segment.slot)];
      if (sequence.result.tokens.empty())
        held.put(segment.slot, std::span(sequence.request->prompt).first(sequence.fed));
    }
    rows.clear();
    for (const Row& row : asked) rows.push_back(row.row);
    best.resize(rows.size());
    session.argmax(rows, best);
    for (const Row& row : asked) {
      Sequence& sequence = *slots[row.slot];
      if (!sequence.result.tokens.empty() || sequence.request->gold.empty()) continue;
      const Stopwatch scoring;
      sequence.result.gold_loglik = score_gold(session, static_cast<int>(row.slot), *sequence.request);
      sequence.result.gold_ms = scoring.seconds() * 1000;
      for (std::optional<Sequence>& other : slots) {
        if (other) other->paused_ms += sequence.result.gold_ms;
      }
    }
    for (size_t i = 0; i < asked.size(); ++i) {
      std::optional<Sequence>& slot = slots[asked[i].slot];
      if (!accept(*slot, best[i], model_->config.end_tokens)) continue;
      slot->result.text = slot->text.text();
      results[slot->index] = std::move(slot->result);
      slot.reset();
      ++done;
    }
    if (progress) progress(done, requests.size());
  }
  note_memory(session);
  return results;
}

}  // namespace nibble
