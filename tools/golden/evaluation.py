"""Golden values of the statistics of evaluation: Wilson's interval, quantiles, McNemar's exact test, sign-flip
permutation tests, cluster bootstraps and pass@k (by counting every choice).

Made with scipy 1.17.1, numpy. Run: python tools/golden/evaluation.py --out tests/data/evaluation
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats


def wilson():
    for k, n in [(0, 10), (1, 10), (5, 10), (10, 10), (37, 200), (1999, 2000), (1, 1)]:
        for level in [0.8, 0.95, 0.99]:
            found = stats.binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
            yield {"k": k, "n": n, "level": level, "low": found.low, "high": found.high}


def permutation(rng):
    cases = [[0.5, 0.25], [0.5, -0.25, 0.0, 1.0], list(rng.normal(0.3, 1.0, 12)), list(rng.normal(0.2, 1.0, 60)),
             list(rng.normal(0.0, 1.0, 100))]
    for d in cases:
        zeros = np.zeros(len(d))
        found = stats.permutation_test((np.array(d), zeros), lambda x, y: np.mean(x - y), permutation_type="samples",
                                       n_resamples=100_000, rng=np.random.default_rng(5))
        # scipy's two-sided p doubles the smaller tail; with signs turned over the tails are alike.
        yield {"differences": [float(x) for x in d], "p": float(found.pvalue)}


def bootstrap(rng):
    graded = [[float(x)] for x in rng.beta(2, 3, 80)]
    clusters = [[float(x) for x in (rng.random(4) < p)] for p in rng.beta(1, 1, 60)]
    uneven = [[float(x) for x in rng.random(int(k))] for k in rng.integers(1, 5, 50)]
    for rows in [graded, clusters, uneven]:
        sums, counts = np.array([sum(r) for r in rows]), np.array([len(r) for r in rows])
        drawn = rng.integers(0, len(rows), (200_000, len(rows)))
        low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
        flat = np.concatenate([np.array(r) for r in rows])
        yield {"rows": rows, "mean": float(flat.mean()), "sd": float(flat.std(ddof=1)), "low": float(low),
               "high": float(high)}


def pass_at_k():
    for n, c, k in [(1, 0, 1), (1, 1, 1), (4, 1, 2), (8, 3, 4), (10, 0, 5), (10, 9, 2), (12, 2, 6)]:
        choices = list(combinations(range(n), k))
        yield {"n": n, "c": c, "k": k, "value": sum(any(i < c for i in x) for x in choices) / len(choices)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    found = {
        "wilson": list(wilson()),
        "quantiles": [{"q": q, "z": float(stats.norm.ppf(q))} for q in [0.5, 0.75, 0.9, 0.975, 0.995, 0.9995]],
        "mcnemar": [{"b": b, "c": c, "p": float(stats.binomtest(b, b + c, 0.5).pvalue)}
                    for b, c in [(1, 0), (5, 1), (3, 3), (10, 25), (400, 300), (0, 40), (3000, 2900)]],
        "permutation": list(permutation(rng)),
        "bootstrap": list(bootstrap(rng)),
        "pass_at_k": list(pass_at_k()),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "statistics.json").write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
