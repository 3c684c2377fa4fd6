// The steps of a training that can be stopped at any of them and goes on there: what they share, whatever is
// trained.
#pragma once

#include <cstdint>
#include <optional>

#include "train/unfinished_training.h"

namespace nibble {

class TrainingLoop {
 public:
  virtual ~TrainingLoop() = default;

 protected:
  // checks: looks at held-out data on the way, at equal distances, the last after the last step; one more is
  // before the first.
  TrainingLoop(UnfinishedTraining unfinished, int checks)
      : unfinished_(std::move(unfinished)), checks_(checks) {}

  // From where an earlier run was stopped, or the start, to step `total`. What stops it, an exception of
  // check() or progress(), leaves what the next run goes on from; so does the end.
  void run(int total);
  int steps() const { return steps_; }  // done
  double seconds() const { return seconds_before_ + watch_.seconds(); }
  uint64_t peak_rss() const;  // as seconds(): of the earlier runs too

 private:
  // One step; returns its loss, or none to end here. What it throws leaves nothing new behind.
  virtual std::optional<double> train(int step) = 0;
  virtual double check(int step) = 0;  // the loss on held-out data
  // loss: of the steps so far, smoothed.
  virtual void progress(int step, double loss) = 0;
  // What the following steps depend on: the arrays, and what facts() says of the rest.
  virtual StateArrays arrays() = 0;
  virtual OrderedJson facts() const = 0;
  // The arrays are as they were after `steps` steps.
  virtual void resume(int steps, const Json& facts) = 0;

  bool check_is_due(int total) const;
  void resume_kept(int total);
  void save();
  template <typename Work>
  void or_save(const Work& work);

  const Stopwatch watch_;
  UnfinishedTraining unfinished_;
  int checks_, steps_ = 0, checked_ = -1;  // checked_: the step of the last check
  double smoothed_ = 0, seconds_before_ = 0;
  uint64_t peak_rss_before_ = 0;
};

}  // namespace nibble
