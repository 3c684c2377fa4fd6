#include "eval/engine.h"

#include <algorithm>

#include "base/stopwatch.h"

namespace nibble {

void EngineOptions::validate() const {
  if (batch_tokens < 1) throw UsageError(fmt::format("a batch of {} tokens: at least 1", batch_tokens));
  if (slots < 1) throw UsageError(fmt::format("batch {}: at least 1", slots));
  if (context < 0) throw UsageError(fmt::format("context {}: at least 1, or 0 for the model's own", context));
}

Engine::Engine(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer,
               const EngineOptions& options, ThreadPool& pool)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)), options_(options), pool_(pool) {
  options_.validate();
  // A decoding step has a token of every slot.
  options_.batch_tokens = std::max(options_.batch_tokens, options_.slots);
}

int Engine::max_context() const {
  const int allowed = model_->config.max_context;
  return options_.context > 0 ? std::min(options_.context, allowed) : allowed;
}

void Engine::check_length(const char* what, size_t index, size_t tokens) const {
  if (tokens > static_cast<size_t>(max_context()))
    fail("{}: {} {} has {} tokens, the context is {}", model_->name(), what, index, tokens, max_context());
}

void Engine::note_memory(const ForwardPass& session) {
  cache_bytes_ = std::max(cache_bytes_, session.cache_bytes());
  workspace_bytes_ = std::max(workspace_bytes_, session.workspace_bytes());
}

ForwardPass& Engine::session(int slots, int context) {
  // Whole blocks of the cache, so that a request a little longer fits as well.
  constexpr int kBlock = 64;
  const int rounded = std::min(model_->config.max_context, (context + kBlock - 1) / kBlock * kBlock);
  const int64_t tokens = std::min<int64_t>(options_.batch_tokens, int64_t{slots} * rounded);
  if (session_) {
    const SessionOptions& have = session_->options();
    if (have.slots >= slots && have.context >= context && have.batch_tokens >= tokens) return *session_;
    session_.reset();  // first, so that both never lie in memory together
  }
  SessionOptions needed;
  needed.slots = slots;
  needed.context = rounded;
  needed.batch_tokens = static_cast<int>(tokens);
  needed.precision = options_.precision;
  session_ = open_forward_pass(model_, needed, pool_);
  return *session_;
}

void Engine::run(ForwardPass& session, std::span<Piece> pieces) {
  const size_t room = static_cast<size_t>(session.options().batch_tokens);
  Batch batch;
  std::vector<TokenQuestion> questions;
  std::vector<TokenScore*> answers;
  std::vector<TokenScore> scores;
  const auto flush = [&] {
    if (batch.tokens.empty()) return;
    session.forward(batch);
    scores.resize(questions.size());
    session.score(questions, scores);
    for (size_t i = 0; i < scores.size(); ++i) *answers[i] = scores[i];
    batch.clear();
    questions.clear();
    answers.clear();
  };
  for (Piece& piece : pieces) {
    piece.scores.resize(piece.questions.size());
    size_t question = 0;
    for (size_t at = 0; at < piece.tokens.size();) {
      if (batch.tokens.size() == room) flush();
      const size_t offset = batch.tokens.size(), count = std::min(room - offset, piece.tokens.size() - at);
      batch.add(piece.slot, piece.start + static_cast<int>(at), std::span(piece.tokens).subspan(at, count));
      for (; question < piece.questions.size() && piece.questions[question].row < at + count; ++question) {
        const TokenQuestion& q = piece.questions[question];
        if (q.token < 0 || q.token >= model_->config.vocab_size)
          fail("{}: token id {} is outside the vocabulary of {}", model_->name(), q.token,
               model_->config.vocab_size);
        questions.push_back({offset + q.row - at, q.token});
        answers.push_back(&piece.scores[question]);
      }
      at += count;
    }
  }
  flush();
  note_memory(session);
}

size_t Engine::take_together(std::span<const size_t> lengths, size_t first) const {
  const size_t budget = static_cast<size_t>(options_.batch_tokens);
  size_t count = 0, tokens = 0;
  while (first + count < lengths.size() && count < static_cast<size_t>(options_.slots)) {
    tokens += lengths[first + count];
    if (count > 0 && tokens > budget) break;
    ++count;
  }
  return count;
}

namespace {

// What a session needs for sequences of these lengths run in these numbers.
struct Need {
  int slots = 1, context = 1;
};

template <typename Take>
Need need_of(std::span<const size_t> lengths, Take take) {
  Need need;
  for (size_t i = 0; i < lengths.size();) {
    const size_t count = take(i);
    need.slots = std::max(need.slots, static_cast<int>(count));
    for (size_t end = i + count; i < end; ++i)
      need.context = std::max(need.context, static_cast<int>(lengths[i]));
  }
  return need;
}

template <typename Group>
std::vector<Group> group_by_context(std::span<const LoglikRequest> requests) {
  std::vector<Group> groups;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (groups.empty() || requests[groups.back().first].context != requests[i].context) {
      groups.push_back({i, 1});
    } else {
      ++groups.back().count;
    }
  }
  return groups;
}

}  // namespace

// Round 0 runs every context with its first continuation, and asks for all first tokens there. Round j
// runs what follows the first token of the j-th continuations, behind the contexts in their slots.
void Engine::score_round(ForwardPass& session, std::span<const LoglikRequest> requests,
                         std::span<const Group> groups, size_t round, HeldPrompts& held,
                         std::span<LoglikResult> results) {
  std::vector<Piece> pieces;
  std::vector<std::vector<size_t>> owners;  // the request of each question
  for (size_t g = 0; g < groups.size(); ++g) {
    if (round >= groups[g].count) continue;
    const size_t own = groups[g].first + round;
    const std::vector<int32_t>&context = requests[own].context, &continuation = requests[own].continuation;
    if (round > 0 && continuation.size() == 1) continue;
    Piece& piece = pieces.emplace_back();
    std::vector<size_t>& owner = owners.emplace_back();
    piece.slot = static_cast<int>(g);
    if (round == 0) {
      const size_t reused = held.take(session, piece.slot, context);
      piece.start = static_cast<int>(reused);
      piece.tokens.assign(context.begin() + piece.start, context.end());
      for (size_t i = own; i < own + groups[g].count; ++i) {
        piece.questions.push_back({piece.tokens.size() - 1, requests[i].continuation.front()});
        owner.push_back(i);
        results[i].is_greedy = true;
      }
    } else {
      piece.start = static_cast<int>(context.size());
    }
    for (size_t i = 0; i + 1 < continuation.size(); ++i) {
      piece.tokens.push_back(continuation[i]);
      piece.questions.push_back({piece.tokens.size() - 1, continuation[i + 1]});
      owner.push_back(own);
    }
  }
  run(session, pieces);
  if (round == 0) {
    for (size_t g = 0; g < groups.size(); ++g)
      held.put(static_cast<int>(g), requests[groups[g].first].context);
  }
  for (size_t p = 0; p < pieces.size(); ++p) {
    for (size_t q = 0; q < owners[p].size(); ++q) {
      results[owners[p][q]].loglik += pieces[p].scores[q].loglik;
      results[owners[p][q]].is_greedy &= pieces[p].scores[q].is_greedy;
    }
  }
}

std::vector<LoglikResult> Engine::loglik(std::span<const LoglikRequest> requests,
                                         const ProgressFn& progress) {
  std::vector<LoglikResult> results(requests.size());
  if (requests.empty()) return results;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].context.empty() || requests[i].continuation.empty())
      fail("{}: request {} lacks a context or a continuation", model_->name(), i);
    check_length("request", i, requests[i].context.size() + requests[i].continuation.size());
  }
  const auto groups = group_by_context<Group>(requests);
  std::vector<size_t> lengths;  // of each group's longest sequence
  for (const Group& group : groups) {
    size_t longest = 0;
    for (size_t i = 0; i < group.count; ++i)
      longest = std::max(longest, requests[group.first + i].continuation.size());
    lengths.push_back(requests[group.first].context.size() + longest);
  }
  const Need need = need_of(lengths, [&](size_t first) { return take_together(lengths, first); });
  ForwardPass& session = this->session(need.slots, need.context);
  HeldPrompts held(session.options().slots);
  for (size_t begin = 0; begin < groups.size();) {
    const size_t end = begin + take_together(lengths, begin);
    const auto together = std::span(groups).subspan(begin, end - begin);
    const Stopwatch watch;
    size_t rounds = 0;
    for (const Group& group : together) rounds = std::max(rounds, group.count);
    for (size_t round = 0; round < rounds; ++round)
      score_round(session, requests, together, round, held, results);
    const size_t first = together.front().first, last = together.back().first + together.back().count;
    const double each = watch.seconds() * 1000 / static_cast<double>(last - first);
    for (size_t i = first; i < last; ++i) results[i].latency_ms = each;
    begin = end;
    if (progress) progress(last, requests.size());
  }
  return results;
}

std::vector<double> Engine::window_nll(std::span<const std::vector<int32_t>> windows,
                                       const ProgressFn& progress) {
  std::vector<double> nll(windows.size(), 0.0);
  if (windows.empty()) return nll;
  std::vector<size_t> lengths;
  for (size_t w = 0; w < windows.size(); ++w) {
    if (windows[w].empty()) fail("{}: window {} is empty", model_->name(), w);
    check_length("window", w, windows[w].size());
    lengths.push_back(windows[w].size());
  }
  const Need need = need_of(lengths, [&](size_t first) { return take_together(lengths, first); });
  ForwardPass& session = this->session(need.slots, need.context);
  for (size_t begin = 0; begin < windows.size();) {
    const size_t end = begin + take_together(lengths, begin);
    std::vector<Piece> pieces(end - begin);
    for (size_t w = begin; w < end; ++w) {
      Piece& piece = pieces[w - begin];
      piece.slot = static_cast<int>(w - begin);
      piece.tokens.assign(windows[w].begin(), windows[w].end() - 1);  // nothing is asked after the last
      for (size_t i = 0; i + 1 < windows[w].size(); ++i) piece.questions.push_back({i, windows[w][i + 1]});
    }
    run(session, pieces);
    for (size_t w = begin; w < end; ++w) {
      for (const TokenScore& score : pieces[w - begin].scores) nll[w] -= score.loglik;
    }
    begin = end;
    if (progress) progress(begin, windows.size());
  }
  return nll;
}

}  // namespace nibble
