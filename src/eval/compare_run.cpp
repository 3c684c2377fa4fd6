#include "eval/compare_run.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "eval/windows.h"

namespace nibble {
namespace {

constexpr int kWindow = 512;  // tokens, where nothing else is asked for

// One model over one window at a time.
class Side {
 public:
  Side(std::shared_ptr<const Model> model, const CompareOptions& options, const Precision& precision,
       ThreadPool& pool)
      : session_(open_forward_pass(std::move(model), session_options(options, precision), pool)),
        logits_(static_cast<size_t>(session_->logit_rows_at_once() * session_->model().config.vocab_size)) {}

  int64_t rows_at_once() const { return session_->logit_rows_at_once(); }
  int piece() const { return session_->options().batch_tokens; }

  void forward(int start, std::span<const int32_t> tokens) {
    batch_.clear();
    batch_.add(0, start, tokens);
    session_->forward(batch_);
  }
  // Of the rows [first, first + count) of what was run last.
  void compute_logits(int64_t first, int64_t count) {
    session_->row_logits(static_cast<size_t>(first), static_cast<size_t>(count), logits_.data());
  }
  std::span<const float> row(size_t i) const {
    const size_t vocab = static_cast<size_t>(session_->model().config.vocab_size);
    return {logits_.data() + i * vocab, vocab};
  }

 private:
  static SessionOptions session_options(const CompareOptions& options, const Precision& precision) {
    SessionOptions session;
    session.context = options.window;
    session.batch_tokens = std::min(options.batch_tokens, options.window);
    session.precision = precision;
    return session;
  }
  std::unique_ptr<ForwardPass> session_;
  AlignedBuffer<float> logits_;
  Batch batch_;
};

}  // namespace

std::vector<Comparison> compare_models(std::shared_ptr<const Model> base,
                                       const std::vector<std::shared_ptr<const Model>>& quants,
                                       const Tokenizer& tokenizer, const std::string& text,
                                       const CompareOptions& asked, ThreadPool& pool,
                                       const ProgressFn& progress) {
  CompareOptions options = asked;
  int context = base->config.max_context;
  for (const auto& quant : quants) {
    if (base->config.vocab_size != quant->config.vocab_size)
      fail("{}: vocabulary of {}, but {} has one of {}: these models cannot be compared", quant->name(),
           quant->config.vocab_size, base->name(), base->config.vocab_size);
    context = std::min(context, quant->config.max_context);
  }
  if (options.window == 0) options.window = std::min(kWindow, context);
  if (options.batch_tokens < 1) throw UsageError("a batch needs at least one token");
  const auto windows = comparison_windows(tokenizer.encode(text, false), options.window, options.windows,
                                          tokenizer.start_token());
  const auto [first_scored, last_scored] = scored_positions(options.window);
  std::vector<Side> sides;  // the base's, then one for each of quants
  sides.emplace_back(std::move(base), options, options.base_precision.value_or(options.precision), pool);
  for (const auto& quant : quants) sides.emplace_back(quant, options, options.precision, pool);
  const size_t piece = static_cast<size_t>(sides.front().piece());
  const size_t at_once = static_cast<size_t>(sides.front().rows_at_once());
  std::vector<PositionDistance> distances(at_once);
  std::vector<ComparisonBuilder> builders(quants.size());
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::vector<int32_t>& window = windows[w];
    for (size_t start = 0; start < last_scored; start += piece) {
      const size_t end = std::min(start + piece, window.size());
      const auto tokens = std::span(window).subspan(start, end - start);
      for (Side& side : sides) side.forward(static_cast<int>(start), tokens);
      const size_t stop = std::min(end, last_scored);
      for (size_t position = std::max(start, first_scored); position < stop; position += at_once) {
        const size_t count = std::min(at_once, stop - position);
        for (Side& side : sides)
          side.compute_logits(static_cast<int64_t>(position - start), static_cast<int64_t>(count));
        for (size_t quant = 0; quant < quants.size(); ++quant) {
          pool.parallel_for(count, 1, [&](size_t begin, size_t finish, int) {
            for (size_t i = begin; i < finish; ++i)
              distances[i] =
                  position_distance(sides.front().row(i), sides[quant + 1].row(i), window[position + i + 1]);
          });
          for (size_t i = 0; i < count; ++i) builders[quant].add(w, distances[i]);
        }
      }
    }
    if (progress) progress(w + 1, windows.size());
  }
  std::vector<Comparison> comparisons;
  for (const ComparisonBuilder& builder : builders) {
    comparisons.push_back(builder.result(&builder == builders.data() ? nullptr : builders.data()));
    comparisons.back().window = options.window;
  }
  return comparisons;
}

}  // namespace nibble
