"""How often intervals cover the truth and equal networks are told apart: ours, Satterthwaite's, a bootstrap over seeds.

On simulated scores: python benchmarks/interval_coverage.py
"""

from itertools import combinations

import numpy as np
from scipy import stats

from raysr.statistics import estimate, holm

TABLES = 4000
STRICT_TABLES = 20000
STRICT = 0.05 / 6
"""The level that Holm's correction asks of the first of six pairs."""
COMPARISONS = 1000
CASES = {
    "seed noise": (1.0, 0.1, 0.1),
    "photograph noise": (0.1, 1.0, 0.1),
    "both": (1.0, 1.0, 0.1),
    "all": (1.0, 1.0, 1.0),
}
SIZES = ((5, 20), (3, 20), (5, 100), (10, 8))


def simulate(rng: np.random.Generator, size: tuple[int, int], noise: tuple[float, float, float]) -> np.ndarray:
    seeds, photographs = size
    by_seed, by_photograph, rest = noise
    cells = rng.normal(0, rest, size)
    return cells + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_photograph, (1, photographs))


def satterthwaite(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean, standard error and joint degrees of freedom."""
    seeds, photographs = scores.shape
    rows, columns, mean = scores.mean(1), scores.mean(0), scores.mean()
    rest_df = (seeds - 1) * (photographs - 1)
    rest = ((scores - rows[:, None] - columns + mean) ** 2).sum() / rest_df
    parts = [(photographs * rows.var(ddof=1), seeds - 1), (seeds * columns.var(ddof=1), photographs - 1)]
    seen = [part for part in parts if part[0] > rest]
    terms = [*seen, (-rest, rest_df)] if len(seen) == 2 else seen or [(rest, rest_df)]
    total = sum(square for square, _ in terms)
    freedom = total**2 / sum(square**2 / df for square, df in terms)
    return mean, np.sqrt(total / scores.size), freedom


def satterthwaite_interval(scores: np.ndarray) -> tuple[float, float]:
    mean, error, freedom = satterthwaite(scores)
    half = stats.t.ppf(0.975, freedom) * error
    return mean - half, mean + half


def satterthwaite_p(scores: np.ndarray) -> float:
    mean, error, freedom = satterthwaite(scores)
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def bootstrap(scores: np.ndarray, level: float, rng: np.random.Generator) -> tuple[float, float]:
    means = scores.mean(1)
    drawn = rng.choice(means, (500, len(means))).mean(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def coverage() -> None:
    print("| seeds x photographs | noise | raysr | Satterthwaite | bootstrap over seeds |\n|---|---|---|---|---|")
    for size in SIZES:
        for name, noise in CASES.items():
            rng = np.random.default_rng([*size, len(name)])
            hits = np.zeros(3)
            for _ in range(TABLES):
                scores = simulate(rng, size, noise)
                ours = estimate(scores)
                ends = [(ours.low, ours.high), satterthwaite_interval(scores), bootstrap(scores, 0.95, rng)]
                hits += [low <= 0 <= high for low, high in ends]
            print(f"| {size[0]} x {size[1]} | {name} | {' | '.join(f'{hit:.1%}' for hit in hits / TABLES)} |")


def strict_misses() -> None:
    print(f"\n| seeds x photographs | noise | raysr misses at {STRICT:.2%} | Satterthwaite misses |\n|---|---|---|---|")
    for size in SIZES[:2]:
        for name, noise in CASES.items():
            rng = np.random.default_rng([*size, len(name), 1])
            misses = np.zeros(2)
            for _ in range(STRICT_TABLES):
                scores = simulate(rng, size, noise)
                misses += [estimate(scores).p_value < STRICT, satterthwaite_p(scores) < STRICT]
            print(
                f"| {size[0]} x {size[1]} | {name} | {' | '.join(f'{miss:.2%}' for miss in misses / STRICT_TABLES)} |"
            )


def equal_networks() -> None:
    print("\n| four equal networks, seeds x photographs | raysr tells some apart | Satterthwaite does |\n|---|---|---|")
    for size in SIZES[:2]:
        rng = np.random.default_rng([*size, 2])
        apart = np.zeros(2)
        for _ in range(COMPARISONS):
            # What photographs add is the same for all four; how each network takes to each photograph is its own.
            networks = [simulate(rng, size, CASES["all"]) for _ in range(4)]
            pairs = [a - b for a, b in combinations(networks, 2)]
            for which, p_value in enumerate((lambda pair: estimate(pair).p_value, satterthwaite_p)):
                apart[which] += min(p for p in holm([p_value(pair) for pair in pairs]) if p is not None) < 0.05
        print(f"| {size[0]} x {size[1]} | {' | '.join(f'{share:.1%}' for share in apart / COMPARISONS)} |")


if __name__ == "__main__":
    coverage()
    strict_misses()
    equal_networks()
