#!/usr/bin/env python3
"""Writes tests/golden/statistics.json: what src/eval/statistics.cpp must yield, from SciPy and statsmodels.

usage: golden_statistics.py > tests/golden/statistics.json      (needs numpy, scipy, statsmodels)
"""
import json
import sys
from fractions import Fraction

import numpy as np
import scipy
import scipy.stats as st
import statsmodels
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

rng = np.random.default_rng(20240607)
MASK = (1 << 64) - 1


class SplitMix64:
    """The project's generator (src/base/random.h), so that bootstrap intervals can be compared exactly."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9e3779b97f4a7c15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        threshold = (1 << 64) % n
        while True:
            product = self.next() * n
            if (product & MASK) >= threshold:
                return product >> 64


def seeded_bootstrap(values, clusters, seed, resamples):
    keys = list(dict.fromkeys(clusters))
    groups = [[v for v, c in zip(values, clusters) if c == k] for k in keys]
    random, means = SplitMix64(seed), []
    for _ in range(resamples):
        drawn = [groups[random.below(len(groups))] for _ in groups]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    return np.percentile(means, [2.5, 97.5]).tolist()


def sign_flip(differences, clusters):
    """Exact: the distribution of the sum of independent signs times each cluster's difference, as a polynomial."""
    sums = [int(round(sum(d for d, c in zip(differences, clusters) if c == k))) for k in dict.fromkeys(clusters)]
    counts = {0: 1}
    for d in sums:
        flipped = {}
        for s, n in counts.items():
            for sign in (d, -d):
                flipped[s + sign] = flipped.get(s + sign, 0) + n
        counts = flipped
    return float(Fraction(sum(n for s, n in counts.items() if abs(s) >= abs(sum(sums))), 2 ** len(sums)))


def clustered(values, clusters):
    codes = np.unique(clusters, return_inverse=True)[1]
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": True})
    return {"value": float(fit.params[0]), "stderr": float(fit.bse[0])}


def ratio(a, b, clusters):
    """The estimator r = Σa/Σb is the weighted regression of a/b on a constant with weights b."""
    codes = np.unique(clusters, return_inverse=True)[1]
    fit = sm.WLS(a / b, np.ones(len(a)), weights=b).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": True})
    # statsmodels corrects by G/(G-1)·(n-1)/(n-k), and k = 1 leaves G/(G-1).
    return {"value": float(fit.params[0]), "stderr": float(fit.bse[0])}


def t_p(estimate, units):
    return float(2 * st.t.sf(abs(estimate["value"] / estimate["stderr"]), units - 1))


def whiskers(v):
    """Ends of a box plot's whiskers: the furthest values within 1.5 times the interquartile range of the box (Tukey)."""
    low, high = np.percentile(v, [25, 75])
    reach = 1.5 * (high - low)
    inside = v[(v >= low - reach) & (v <= high + reach)]
    return {"whisker_low": float(inside.min()), "whisker_high": float(inside.max())}


def main():
    out = {"made_with": f"scipy {scipy.__version__}, statsmodels {statsmodels.__version__}, numpy {np.__version__}"}
    out["student_t_975"] = [{"df": d, "t": float(st.t.ppf(0.975, d))} for d in [1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 20, 30, 59, 100, 1000]]
    out["student_t_p"] = [{"t": t, "df": d, "p": float(2 * st.t.sf(t, d))} for d in (1, 2, 3, 4, 5, 10, 19, 39, 150, 2001)
                          for t in (0., .3, 1.96, 2.8, 4.5)]
    out["wilson"] = [dict(zip(("k", "n", "low", "high"), (k, n, *map(float, proportion_confint(k, n, method="wilson")))))
                     for k, n in [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (61, 100), (122, 200), (1, 3270), (2000, 3270)]]
    out["mcnemar"] = [{"b": b, "c": c, "p": float(mcnemar([[0, b], [c, 0]], exact=True).pvalue) if b + c else 1.0}
                      for b, c in [(0, 0), (1, 0), (0, 5), (3, 3), (10, 2), (4, 15), (40, 61), (0, 60), (500, 580), (900, 2000), (3000, 3100)]]
    out["sign_flip"] = []
    for d in ([1, 1], [1, -1], [2, 1, 1, -1, 0, 2], [2, 2, -2, 1, 1, 1, -1, 2, 0, 1], [1] * 9 + [-1] * 3, [3, -1, 2, 2, 0, 0, 1, -2, 4, 1, 1, 2]):
        test = st.permutation_test((np.array(d, float),), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples",
                                   vectorized=True, n_resamples=np.inf, alternative="two-sided")
        out["sign_flip"].append({"differences": d, "p": float(test.pvalue)})
    out["holm"] = []
    for p in ([0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.8, 0.7], [0.02, 0.02, 0.02], [1e-10, 0.049, 0.2, 0.0001, 0.012, 0.6]):
        out["holm"].append({"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()})
    values = np.round(rng.normal(3, 2, 57), 6)
    out["mean"] = {"values": values.tolist(), "value": float(values.mean()), "stderr": float(st.sem(values))}
    out["percentiles"] = []
    for n in (1, 2, 10, 57):
        v = np.round(rng.lognormal(2, 1, n), 6)
        out["percentiles"].append({"values": v.tolist(), "mean": float(v.mean()),
                                   **{f"p{q}": float(np.percentile(v, q)) for q in (25, 50, 75, 90, 95, 99)}, "p99.9": float(np.percentile(v, 99.9)),
                                   "min": float(v.min()), "max": float(v.max()), **whiskers(v)})

    out["clustered"] = []
    for sizes in ([2] * 20, [1, 5, 2, 8, 3, 3, 1], [4, 4]):
        keys = [f"q{g}" for g, s in enumerate(sizes) for _ in range(s)]
        shift = np.repeat(rng.normal(0, 1, len(sizes)), sizes)
        x = np.round(shift + rng.normal(0, .5, len(keys)), 6)
        order = rng.permutation(len(keys))     # members of a cluster need not be neighbours
        keys, x = [keys[i] for i in order], x[order]
        out["clustered"].append({"values": x.tolist(), "clusters": keys, **clustered(x, keys)})

    tokens = rng.integers(40, 512, 24).astype(float)
    base = np.round(tokens * rng.normal(3.1, .25, 24), 6)
    quant = np.round(base + tokens * rng.normal(.06, .02, 24), 6)
    noise = np.round(tokens * np.random.default_rng(11).normal(.01, .02, 24), 6)   # a difference that is not large
    own, pairs = [str(i) for i in range(24)], [str(i // 3) for i in range(24)]
    out["ppl"] = {"nll_base": base.tolist(), "nll_quant": quant.tolist(), "tokens": tokens.tolist(), "clusters": pairs,
                  "ln_ppl_base": ratio(base, tokens, own), "ln_ratio": ratio(quant - base, tokens, own),
                  "ln_ratio_clustered": ratio(quant - base, tokens, pairs),
                  "noise": noise.tolist(), "ln_ratio_noise": ratio(noise, tokens, own), "p_noise": t_p(ratio(noise, tokens, own), 24),
                  "ppl_base": float(np.exp(base.sum() / tokens.sum())), "ppl_quant": float(np.exp(quant.sum() / tokens.sum()))}

    a = (rng.random(300) < .62).astype(float)
    b = np.where(rng.random(300) < .85, a, 1 - a)
    keys = [f"q{i // 2}" for i in range(300)]
    boot = st.bootstrap((b - a,), np.mean, n_resamples=200000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    out["paired"] = {"base": a.tolist(), "quant": b.tolist(), "clusters": keys, "seed": 7, "diff": float((b - a).mean()),
                     "stderr": float(st.sem(b - a)), "stderr_clustered": clustered(b - a, keys)["stderr"], "p_clustered": sign_flip((b - a).tolist(), keys),
                     "right_to_wrong": int(((a == 1) & (b == 0)).sum()), "wrong_to_right": int(((a == 0) & (b == 1)).sum()),
                     "p_value": float(mcnemar([[0, int(((a == 1) & (b == 0)).sum())], [int(((a == 0) & (b == 1)).sum()), 0]], exact=True).pvalue),
                     "bootstrap_scipy_200000": [float(boot.low), float(boot.high)],
                     "bootstrap_seeded": seeded_bootstrap((b - a).tolist(), [str(i) for i in range(300)], 7, 10000),
                     "bootstrap_seeded_clustered": seeded_bootstrap((b - a).tolist(), keys, 7, 10000),
                     "smallest_detectable": float((st.norm.ppf(.975) + st.norm.ppf(.8)) * st.sem(b - a))}
    sizes = [1, 5, 2, 8, 3, 3, 1, 2]           # a mean over unequal clusters is a ratio of two sums
    keys = [f"q{g}" for g, s in enumerate(sizes) for _ in range(s)]
    d = np.round(rng.normal(0, 1, len(keys)), 6)
    out["bootstrap_unequal"] = {"differences": d.tolist(), "clusters": keys, "seed": 3, "resamples": 2000, "ci": seeded_bootstrap(d.tolist(), keys, 3, 2000)}
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
