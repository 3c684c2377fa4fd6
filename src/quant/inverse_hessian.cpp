#include "quant/inverse_hessian.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quant/compute.h"
#include "quant/linalg.h"

namespace nibble {
namespace {

// H with dead inputs set to 1, in the order given, damped.
std::vector<double> damped(const InputStatistics& input, const std::vector<int64_t>& order, double damp) {
  const int64_t k = input.k;
  std::vector<double> h(static_cast<size_t>(k * k));
  const double scale = 1.0 / static_cast<double>(input.tokens);
  double mean = 0;
  for (int64_t i = 0; i < k; ++i)
    mean += double{input.gram[static_cast<size_t>(i * k + i)]} * scale / static_cast<double>(k);
  for (int64_t i = 0; i < k; ++i) {
    const int64_t from = order[static_cast<size_t>(i)] * k;
    for (int64_t j = 0; j < k; ++j)
      h[static_cast<size_t>(i * k + j)] =
          double{input.gram[static_cast<size_t>(from + order[static_cast<size_t>(j)])]} * scale;
    double& diagonal = h[static_cast<size_t>(i * k + i)];
    if (diagonal == 0) diagonal = 1;
    diagonal += damp * mean;
  }
  return h;
}

// The factor is right when Uᵀ·(U·(H·v)) gives v back: guards against a library's wrong answer.
struct Probe {
  explicit Probe(const std::vector<double>& h, size_t n) : v(n), hv(n, 0.0) {
    for (size_t i = 0; i < n; ++i) v[i] = i % 3 == 0 ? 1.0 : -0.5;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) hv[i] += h[i * n + j] * v[j];
    }
  }
  std::vector<double> v, hv;

  bool passes(const std::vector<double>& u) const {
    const size_t n = v.size();
    std::vector<double> middle(n, 0.0), back(n, 0.0);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) middle[i] += u[i * n + j] * hv[j];
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) back[j] += u[i * n + j] * middle[i];
    }
    double error = 0, size = 0;
    for (size_t i = 0; i < n; ++i) {
      error += (back[i] - v[i]) * (back[i] - v[i]);
      size += v[i] * v[i];
    }
    return error <= 1e-4 * size;
  }
};

bool factor(const InputStatistics& input, const std::vector<int64_t>& order, double share,
            std::vector<float>& u, ThreadPool& pool) {
  std::vector<double> h = damped(input, order, share);
  const Probe probe(h, static_cast<size_t>(input.k));
  if (!inverse_cholesky_upper(h, input.k, pool) || !probe.passes(h)) return false;
  u.assign(h.begin(), h.end());
  return true;
}

}  // namespace

std::shared_ptr<const InverseHessian> inverse_hessian(const InputStatistics& input, double damp,
                                                      bool act_order, ThreadPool& pool) {
  if (input.inverse && input.inverse->asked == damp && input.inverse->act_order == act_order)
    return input.inverse;
  const size_t k = static_cast<size_t>(input.k);
  auto out = std::make_shared<InverseHessian>();
  out->asked = damp;
  out->act_order = act_order;
  out->order.resize(k);
  std::iota(out->order.begin(), out->order.end(), int64_t{0});
  const auto diagonal = [&](int64_t i) {
    return input.gram[static_cast<size_t>(i) * k + static_cast<size_t>(i)];
  };
  for (const int64_t i : out->order) out->dead += diagonal(i) == 0;
  if (act_order) {
    std::stable_sort(out->order.begin(), out->order.end(),
                     [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  }
  for (double share = damp; share <= kLargestDamp * 1.001; share = share > 0 ? share * 10 : 0.001) {
    if (input.card ? !input.card->factor(input, out->order, share, out->factor)
                   : !factor(input, out->order, share, out->factor, pool))
      continue;
    out->damp = share;
    break;
  }
  input.inverse = out;
  return out;
}

}  // namespace nibble
