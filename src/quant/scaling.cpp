#include "quant/scaling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/grid.h"
#include "quant/linalg.h"

namespace nibble {
namespace {

constexpr int kExponents = 20;
constexpr float kExponentStep = 0.05f;
constexpr float kLeastActivation = 1e-3f;  // of the mean channel's: keeps a dead channel's scale sane
constexpr double kWorstRatio = 0.97;  // sample rows flatter a scale a little: it must gain more than that
constexpr float kLargestScale = 64;   // after normalization; stored fp16 scales stay normal numbers

// Mean over channels' inputs of the mean |x|.
std::vector<float> channel_means(const std::vector<float>& per_input, std::span<const int> channel_of,
                                 int channels) {
  std::vector<float> mean(static_cast<size_t>(channels)), count(mean.size());
  for (size_t i = 0; i < per_input.size(); ++i) {
    mean[static_cast<size_t>(channel_of[i])] += per_input[i];
    count[static_cast<size_t>(channel_of[i])] += 1;
  }
  for (size_t c = 0; c < mean.size(); ++c) mean[c] /= std::max(count[c], 1.0f);
  return mean;
}

// Mean over all rows of |W| / the largest |W| of its group.
std::vector<float> weight_magnitude(std::span<const ScaledLinear> linears, int64_t k) {
  std::vector<double> sum(static_cast<size_t>(k));
  double rows = 0;
  for (const ScaledLinear& l : linears) {
    rows += static_cast<double>(l.format.n);
    for (int64_t row = 0; row < l.format.n; ++row) {
      const float* w = l.weight.data() + row * k;
      for (int64_t first = 0; first < k; first += l.format.group()) {
        const int64_t end = std::min(k, first + l.format.group());
        float largest = 0;
        for (int64_t i = first; i < end; ++i) largest = std::max(largest, std::fabs(w[i]));
        if (largest == 0) continue;
        for (int64_t i = first; i < end; ++i) sum[static_cast<size_t>(i)] += std::fabs(w[i]) / largest;
      }
    }
  }
  std::vector<float> mean(sum.size());
  for (size_t i = 0; i < sum.size(); ++i) mean[i] = static_cast<float>(sum[i] / std::max(rows, 1.0));
  return mean;
}

void normalize(std::vector<float>& scale) {
  const auto [low, high] = std::minmax_element(scale.begin(), scale.end());
  const float middle = std::sqrt(*low * *high);
  for (float& s : scale) s = std::clamp(s / middle, 1 / kLargestScale, kLargestScale);
}

// ‖(W − round(W·s)/s)·X‖² over the sample rows, relative to ‖W·X‖².
class OutputError {
 public:
  OutputError(const ScaledLinear& linear, const InputStatistics& input, ThreadPool& pool)
      : linear_(linear),
        input_(input),
        pool_(pool),
        rows_(static_cast<int64_t>(input.sample.size()) / input.k),
        error_(linear.weight.size()),
        output_(static_cast<size_t>(linear.format.n * rows_)) {
    std::copy(linear.weight.begin(), linear.weight.end(), error_.begin());
    base_ = energy();
  }

  double operator()(const std::vector<float>& scale_of_input) {
    const PackedFormat& f = linear_.format;
    pool_.parallel_for(static_cast<size_t>(f.n), 1, [&](size_t begin, size_t end, int) {
      std::vector<float> scaled(static_cast<size_t>(f.k));
      for (int64_t row = static_cast<int64_t>(begin); row < static_cast<int64_t>(end); ++row) {
        const float* w = linear_.weight.data() + row * f.k;
        float* e = error_.data() + row * f.k;
        for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = w[i] * scale_of_input[i];
        const float unit = row_unit(scaled, f);
        for (int64_t first = 0; first < f.k; first += f.group()) {
          const int64_t stop = std::min(f.k, first + f.group());
          const Grid grid = fit_range({scaled.data() + first, static_cast<size_t>(stop - first)}, f, unit);
          for (int64_t i = first; i < stop; ++i) {
            const size_t at = static_cast<size_t>(i);
            e[i] = w[i] - grid.value(grid.code(scaled[at], f.max_code())) / scale_of_input[at];
          }
        }
      }
    });
    return base_ > 0 ? energy() / base_ : 0;
  }

 private:
  double energy() {
    product_transposed(error_.data(), input_.sample.data(), output_.data(), linear_.format.n, rows_, input_.k,
                       pool_);
    double total = 0;
    for (const float v : output_) total += double{v} * double{v};
    return total;
  }

  const ScaledLinear& linear_;
  const InputStatistics& input_;
  ThreadPool& pool_;
  int64_t rows_;
  std::vector<float> error_, output_;
  double base_ = 0;
};

}  // namespace

bool ChannelScales::identity() const {
  return std::all_of(scale.begin(), scale.end(), [](float s) { return s == 1.0f; });
}

ChannelScales search_scales(std::span<const ScaledLinear> linears, const InputStatistics& input,
                            std::span<const int> channel_of, int channels, ThreadPool& pool) {
  ChannelScales best;
  best.scale.assign(static_cast<size_t>(channels), 1.0f);
  if (!input.finite || input.sample.empty()) return best;
  std::vector<float> x = channel_means(input.mean_abs, channel_of, channels);
  const std::vector<float> w = channel_means(weight_magnitude(linears, input.k), channel_of, channels);
  double mean = 0;
  for (const float v : x) mean += v / static_cast<double>(channels);
  if (!(mean > 0)) return best;
  for (float& v : x) v = std::max(v, kLeastActivation * static_cast<float>(mean));

  std::vector<OutputError> errors;
  errors.reserve(linears.size());
  for (const ScaledLinear& l : linears) errors.emplace_back(l, input, pool);
  std::vector<float> of_input(static_cast<size_t>(input.k), 1.0f);
  // Each linear's error relative to its own without scales; a scale that makes one of them worse is
  // no candidate.
  std::vector<double> plain;
  for (OutputError& error : errors) plain.push_back(error(of_input));
  const auto loss = [&](const std::vector<float>& scale) {
    for (size_t i = 0; i < of_input.size(); ++i) of_input[i] = scale[static_cast<size_t>(channel_of[i])];
    double total = 0;
    for (size_t l = 0; l < errors.size(); ++l) {
      if (plain[l] == 0) continue;
      const double ratio = errors[l](of_input) / plain[l];
      if (ratio > kWorstRatio) return std::numeric_limits<double>::infinity();
      total += ratio;
    }
    return total;
  };
  double least = static_cast<double>(errors.size());
  for (const bool by_weight : {false, true}) {
    for (int step = by_weight ? 0 : 1; step < kExponents; ++step) {
      ChannelScales candidate{std::vector<float>(x.size()), kExponentStep * static_cast<float>(step),
                              by_weight};
      for (size_t c = 0; c < x.size(); ++c) {
        candidate.scale[c] = std::pow(x[c], candidate.exponent);
        if (by_weight) candidate.scale[c] /= std::pow(w[c], 1 - candidate.exponent) + 1e-4f;
      }
      normalize(candidate.scale);
      const double error = loss(candidate.scale);
      if (error < least) {
        least = error;
        best = std::move(candidate);
      }
    }
  }
  return best;
}

void scale_inputs(std::vector<float>& weight, std::span<const int> channel_of, const ChannelScales& scales,
                  bool divide) {
  const size_t k = channel_of.size();
  for (size_t at = 0; at < weight.size(); ++at) {
    const float s = scales.scale[static_cast<size_t>(channel_of[at % k])];
    weight[at] = divide ? weight[at] / s : weight[at] * s;
  }
}

InputStatistics divide_input(const InputStatistics& input, std::span<const int> channel_of,
                             const ChannelScales& scales) {
  const size_t k = static_cast<size_t>(input.k);
  InputStatistics out;
  out.k = input.k;
  out.tokens = input.tokens;
  out.gram = input.gram;
  out.mean_abs = input.mean_abs;
  out.sample = input.sample;
  out.held_out = input.held_out;
  out.finite = input.finite;
  out.card = input.card;
  std::vector<float> inverse(k);
  for (size_t i = 0; i < k; ++i) inverse[i] = 1.0f / scales.scale[static_cast<size_t>(channel_of[i])];
  for (size_t i = 0; i < k; ++i) {
    out.mean_abs[i] *= inverse[i];
    for (size_t j = 0; j < k && !out.gram.empty(); ++j) out.gram[i * k + j] *= inverse[i] * inverse[j];
  }
  for (std::vector<float>* rows : {&out.sample, &out.held_out}) {
    for (size_t at = 0; at < rows->size(); ++at) (*rows)[at] *= inverse[at % k];
  }
  return out;
}

}  // namespace nibble
