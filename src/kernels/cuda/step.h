// A decoding step as one kernel that stays on the card: what gemv() and attention() do one after another, in
// programs. Its blocks, one a multiprocessor, ask for the weights of later parts while they wait for each
// other. Needs compute capability 9.0.
#pragma once

#include <memory>

#include "kernels/cuda/ops.h"

namespace nibble::cuda {

class StepProgram {
 public:
  StepProgram();
  StepProgram(StepProgram&& other) noexcept;
  StepProgram& operator=(StepProgram&& other) noexcept;
  ~StepProgram();

  // Whether the card and the kernel take this; the calls that they do not take remain gemv()'s and
  // attention()'s.
  static bool takes(const Gemv& call);
  static bool takes(const Attention& call);

  // Parts, in order: each sees what those before it wrote, which gets to the caller's memory only where no
  // later part reads it. beside: runs at the same time as the attention before it, with the input of the
  // gemv() before that.
  void add(Gemv call, bool beside = false);
  void add(const Attention& call);
  void upload(Queue& queue);  // after the last part
  void run(Queue& queue, bool overlap) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace nibble::cuda
