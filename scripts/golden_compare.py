#!/usr/bin/env python3
"""Writes tests/golden/compare.json: the distance of two sets of logits as NumPy and SciPy compute it.

usage: golden_compare.py > tests/golden/compare.json      (needs numpy, scipy)
"""
import json
import sys

import numpy as np
from scipy.special import log_softmax
from scipy.stats import sem

rng = np.random.default_rng(3)
windows, positions, vocab = 6, 9, 23
base = rng.normal(0, 3, (windows, positions, vocab)).astype(np.float32)
quant = (base + rng.normal(0, .4, base.shape)).astype(np.float32)
base[0, 0, 5] = -np.inf          # a masked token
quant[0, 0, 5] = -np.inf
base[1] += 3000                  # needs the maximum taken out first
true = rng.integers(0, vocab, (windows, positions))
true[0, 0] = 4
lb, lq = log_softmax(base.astype(np.float64), -1), log_softmax(quant.astype(np.float64), -1)
with np.errstate(invalid="ignore"):
    kl = np.nansum(np.exp(lb) * (lb - lq), -1)
pick = np.take_along_axis
nb, nq = -pick(lb, true[..., None], -1)[..., 0], -pick(lq, true[..., None], -1)[..., 0]
dp = np.exp(-nq) - np.exp(-nb)
agree = (base.argmax(-1) == quant.argmax(-1)).mean()
out = {"base": np.where(np.isinf(base), -1e30, base).tolist(), "quant": np.where(np.isinf(quant), -1e30, quant).tolist(), "true": true.tolist(),
       "kl": kl.tolist(), "nll_base": nb.tolist(), "nll_quant": nq.tolist(),
       # With windows of equal length the clustered error is that of the windows' means.
       "result": {"window": 2 * positions, "windows": windows, "tokens": windows * positions,
                  "kl": {"mean": kl.mean(), "stderr": sem(kl.mean(1)), "stderr_positions": sem(kl.ravel()),
                         **{f"p{q:g}": np.percentile(kl, q) for q in (50, 90, 95, 99, 99.9)}, "max": kl.max()},
                  "top1_agreement": agree, "top1_stderr": (agree * (1 - agree) / kl.size) ** .5,
                  "delta_p": {"mean": dp.mean(), "stderr": sem(dp.mean(1)), "rms": (dp ** 2).mean() ** .5},
                  "ppl_base": np.exp(nb.mean()), "ppl_quant": np.exp(nq.mean()),
                  "ln_ppl_ratio": {"mean": (nq - nb).mean(), "stderr": sem((nq - nb).mean(1))}, "not_finite": 0}}
json.dump(out, sys.stdout, default=float)
print()
