"""How often 95 % intervals cover the truth: ours, Satterthwaite's and a bootstrap over seeds, on simulated scores.

python benchmarks/interval_coverage.py
"""

import numpy as np
from scipy import stats

from raysr.statistics import estimate

TABLES = 4000
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


def satterthwaite(scores: np.ndarray, level: float) -> tuple[float, float]:
    seeds, photographs = scores.shape
    rows, columns, mean = scores.mean(1), scores.mean(0), scores.mean()
    rest_df = (seeds - 1) * (photographs - 1)
    rest = ((scores - rows[:, None] - columns + mean) ** 2).sum() / rest_df
    parts = [(photographs * rows.var(ddof=1), seeds - 1), (seeds * columns.var(ddof=1), photographs - 1)]
    seen = [part for part in parts if part[0] > rest]
    terms = [*seen, (-rest, rest_df)] if len(seen) == 2 else seen or [(rest, rest_df)]
    total = sum(square for square, _ in terms)
    freedom = total**2 / sum(square**2 / df for square, df in terms)
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total / scores.size)
    return mean - half, mean + half


def bootstrap(scores: np.ndarray, level: float, rng: np.random.Generator) -> tuple[float, float]:
    means = scores.mean(1)
    drawn = rng.choice(means, (500, len(means))).mean(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def main() -> None:
    print("| seeds x photographs | noise | raysr | Satterthwaite | bootstrap over seeds |\n|---|---|---|---|---|")
    for size in SIZES:
        for name, noise in CASES.items():
            rng = np.random.default_rng([*size, len(name)])
            hits = np.zeros(3)
            for _ in range(TABLES):
                scores = simulate(rng, size, noise)
                ours = estimate(scores)
                ends = [(ours.low, ours.high), satterthwaite(scores, 0.95), bootstrap(scores, 0.95, rng)]
                hits += [low <= 0 <= high for low, high in ends]
            print(f"| {size[0]} x {size[1]} | {name} | {' | '.join(f'{hit:.1%}' for hit in hits / TABLES)} |")


if __name__ == "__main__":
    main()
