// Decoding that feeds itself: recorded steps, a record of what they found, and the host that reads it at the
// end.
#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "model/cuda/session.h"

namespace nibble {
namespace {

constexpr int kStepsTogether = 8;  // in one recording

}  // namespace

void CudaSession::run_greedy_step(int rows, const Reach& reach, bool overlap) {
  if (const cuda::StepProgram* whole = program(rows, reach, true)) {
    cuda::embed(queue_, weights_->embedding, device_rows_.tokens, rows, h_.as<float>(), overlap);
    whole->run(queue_, true);
  } else {
    run_blocks(rows, reach, true, overlap);
    run_head(0, rows, true);
  }
  uint64_t* keys = keys_of_best_.as<uint64_t>();
  cuda::argmax(queue_, logits_.as<float>(), model_->config.vocab_size, rows, keys, true);
  char* record = loop_.as<char>();
  cuda::Loop loop;
  loop.tokens = device_rows_.tokens;
  loop.positions = device_rows_.positions;
  loop.keys = keys;
  loop.step = reinterpret_cast<int32_t*>(record);
  loop.found = reinterpret_cast<int32_t*>(record + kFoundAt);
  loop.times = reinterpret_cast<uint64_t*>(record + kTimesAt);
  loop.rows = rows;
  cuda::advance(queue_, loop, true);
}

CudaSession::StepKey CudaSession::next_steps(int rows, int last, int left) const {
  const int steps = left >= kStepsTogether ? kStepsTogether : 1;
  return {rows, reach_of(last + steps - 1, rows), steps};
}

void CudaSession::greedy(std::span<const Continuation> sequences, int steps, int32_t* out, double* step_ms) {
  const int rows = static_cast<int>(sequences.size());
  const size_t width = sequences.size();
  if (rows > few_) return ForwardPass::greedy(sequences, steps, out, step_ms);
  Batch batch;
  int last = 0;
  for (const Continuation& s : sequences) {
    batch.add(s.slot, s.position, std::span(&s.token, 1));
    last = std::max(last, s.position);
  }
  check_batch(batch);
  NIBBLE_CHECK(is_step(batch));
  for (Segment& s : batch.segments) s.count = steps;
  for (const Segment& s : batch.segments) {
    if (s.start + steps > options_.context)
      fail("{}: positions {} to {} exceed the {} of a slot", model_->name(), s.start, s.start + steps,
           options_.context);
  }
  for (Segment& s : batch.segments) s.count = 1;
  place_rows(batch.tokens, batch.segments);
  rows_in_batch_ = rows;
  for (int done = 0; done < steps;) {
    const int now = std::min(steps - done, kLoopSteps);
    // Graphs are made before the clock starts to run.
    std::vector<const cuda::Graph*> graphs;
    for (int i = 0; i < now;) {
      const StepKey key = next_steps(rows, last + done + i, now - i);
      graphs.push_back(&step_graph(key));
      i += key.greedy_steps;
    }
    const int32_t zero = 0;
    queue_.to_device(loop_.as<void>(), &zero, sizeof zero);
    const auto start = std::chrono::steady_clock::now();
    for (const cuda::Graph* graph : graphs) queue_.run(*graph);
    queue_.to_host(host_loop_.as<void>(), loop_.as<void>(), kLoopBytes);
    queue_.wait();
    const double total_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    const int32_t* found = reinterpret_cast<const int32_t*>(host_loop_.as<char>() + kFoundAt);
    std::copy(found, found + static_cast<size_t>(now) * width, out + static_cast<size_t>(done) * width);
    if (step_ms) {
      const uint64_t* times = reinterpret_cast<const uint64_t*>(host_loop_.as<char>() + kTimesAt);
      double later = 0;
      for (int i = 1; i < now; ++i)
        later += step_ms[done + i] = static_cast<double>(times[i] - times[i - 1]) / 1e6;
      step_ms[done] = std::max(0.0, total_ms - later);
    }
    done += now;
  }
}

}  // namespace nibble
